//! Expert groups and the fixed binary tree that sums them.
//!
//! The tree has the groups of a layer as leaves and is numbered like a heap: node 1 is the root, node `n` has the
//! children `2n` and `2n + 1`, group `g` of `G` is node `G + g`. Whoever holds groups sends one row per maximal
//! subtree of which it holds every group, so that the sum has the same shape wherever the groups live.

use proto::facts::expert_groups;

pub use proto::GroupSet;

/// A node of the summation tree, numbered like a heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subtree(pub u8);

impl Subtree {
    /// The groups below the node, in a layer with `groups` groups; none for a node that is not in its tree.
    #[must_use]
    pub fn groups(self, groups: u32) -> GroupSet {
        if self.0 == 0 {
            return GroupSet::none();
        }
        let (first, size) = span(self, groups);
        (first..first + size).fold(GroupSet::none(), GroupSet::with)
    }
}

/// The maximal subtrees all of whose groups are in `set`, left to right.
#[must_use]
pub fn cover(set: GroupSet, groups: u32) -> Vec<Subtree> {
    let mut found = Vec::new();
    if groups > 0 {
        descend(set, 1, (0, groups), &mut found);
    }
    found
}

fn descend(set: GroupSet, node: u8, (first, span): (u32, u32), found: &mut Vec<Subtree>) {
    let held = (first..first + span).filter(|g| set.contains(*g)).count();
    if held == span as usize {
        found.push(Subtree(node));
    } else if held > 0 {
        let half = span / 2;
        descend(set, node * 2, (first, half), found);
        descend(set, node * 2 + 1, (first + half, half), found);
    }
}

/// The group of an expert: the inverse of `group_experts`.
#[must_use]
pub fn group_of(expert: u32, experts: u32) -> u32 {
    let groups = expert_groups(experts);
    // floor((g+1)E/G) > e is the first group that ends after the expert.
    (0..groups)
        .find(|g| proto::facts::group_experts(experts, *g).end > expert)
        .unwrap_or(groups.saturating_sub(1))
}

/// The first group and the number of groups below `node`.
#[must_use]
pub fn span(node: Subtree, groups: u32) -> (u32, u32) {
    let level = u32::from(node.0.max(1)).ilog2();
    let size = groups >> level;
    ((u32::from(node.0) - (1 << level)) * size, size)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Sums rows up the tree from `node`: a row that is there is taken, else the two children are added (left + right);
    /// an empty side is skipped. `None` when nothing below `node` is there.
    pub(crate) fn tree_sum(
        node: Subtree,
        groups: u32,
        rows: &mut BTreeMap<Subtree, Vec<f32>>,
    ) -> Option<Vec<f32>> {
        if let Some(row) = rows.remove(&node) {
            return Some(row);
        }
        if u32::from(node.0) >= groups {
            return None;
        }
        let left = tree_sum(Subtree(node.0 * 2), groups, rows);
        let right = tree_sum(Subtree(node.0 * 2 + 1), groups, rows);
        match (left, right) {
            (Some(mut l), Some(r)) => {
                for (a, b) in l.iter_mut().zip(&r) {
                    *a += *b;
                }
                Some(l)
            }
            (one, other) => one.or(other),
        }
    }

    #[test]
    fn the_cover_is_maximal_and_exact() {
        for groups in [1u32, 2, 4, 8, 16] {
            for bits in 0..(1u32 << groups) {
                let set = (0..groups)
                    .filter(|g| bits >> g & 1 == 1)
                    .fold(GroupSet::none(), GroupSet::with);
                let mut covered = GroupSet::none();
                let cover = cover(set, groups);
                for node in &cover {
                    let (first, size) = span(*node, groups);
                    for g in first..first + size {
                        assert!(!covered.contains(g), "twice");
                        covered = covered.with(g);
                    }
                }
                assert_eq!(covered, set);
                for pair in cover.windows(2) {
                    let siblings = pair[0].0 % 2 == 0 && pair[1].0 == pair[0].0 + 1;
                    assert!(!siblings, "{cover:?} could be larger");
                }
            }
        }
    }

    #[test]
    fn the_sum_has_the_same_shape_wherever_the_groups_live() {
        let groups = 8;
        let leaf = |g: u8| vec![0.1f32 * f32::from(g + 1), 1e7 * f32::from(g % 3)];
        let whole = {
            let mut rows = (0..8u8).map(|g| (Subtree(8 + g), leaf(g))).collect();
            tree_sum(Subtree(1), groups, &mut rows).unwrap()
        };
        for bits in 0..256u32 {
            let set = (0..8)
                .filter(|g| bits >> g & 1 == 1)
                .fold(GroupSet::none(), GroupSet::with);
            let mut met = BTreeMap::new();
            for part in [set, set.missing(groups)] {
                for node in cover(part, groups) {
                    let mut rows = (0..8u8).map(|g| (Subtree(8 + g), leaf(g))).collect();
                    met.insert(node, tree_sum(node, groups, &mut rows).unwrap());
                }
            }
            let sum = tree_sum(Subtree(1), groups, &mut met).unwrap();
            assert_eq!(sum.map_bits(), whole.map_bits());
        }
    }

    trait Bits {
        fn map_bits(&self) -> Vec<u32>;
    }
    impl Bits for Vec<f32> {
        fn map_bits(&self) -> Vec<u32> {
            self.iter().map(|v| v.to_bits()).collect()
        }
    }

    #[test]
    fn empty_sides_are_skipped() {
        let mut rows = BTreeMap::from([(Subtree(5), vec![-0.0f32])]);
        let sum = tree_sum(Subtree(1), 4, &mut rows).unwrap();
        assert_eq!(sum[0].to_bits(), (-0.0f32).to_bits());
        assert!(tree_sum(Subtree(1), 4, &mut BTreeMap::new()).is_none());
    }

    #[test]
    fn groups_of_experts_invert_their_ranges() {
        for experts in [1u32, 3, 8, 10, 60, 256] {
            for e in 0..experts {
                let range = proto::facts::group_experts(experts, group_of(e, experts));
                assert!(range.contains(&e));
            }
        }
    }
}
