//! The time of one layer whose experts are on several nodes.
//!
//! Owns the expectation over routings. A row uses `k` of `E` experts, every set of `k` as likely as any other; each holder
//! works off those of its experts that were chosen, all holders at the same time, and the layer takes as long as the
//! slowest. That is more than the slowest holder's average: of 8 experts on two equal nodes 4 fall on each on average, but
//! about 5.1 on the one that has more.

/// Experts of one row beyond which the average counts instead of the distribution.
const USED_MAX: u32 = 64;
/// Share of all routings beyond which the others count for nothing.
const DONE: f64 = 1.0 - 1e-13;

/// Who holds some of a layer's experts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Holder {
    /// Experts that it holds.
    pub experts: u32,
    /// Seconds beside the work, if at least one of them is chosen: rows there, partial sums back. 0 for the stage itself.
    pub fixed_s: f64,
    /// Seconds for each chosen expert.
    pub expert_s: f64,
}

impl Holder {
    fn cost_s(&self, chosen: u32) -> f64 {
        if chosen == 0 {
            0.0
        } else {
            self.fixed_s + f64::from(chosen) * self.expert_s
        }
    }

    /// Seconds on average.
    pub(crate) fn mean_s(&self, all: u32, used: u32) -> f64 {
        if self.experts == 0 || all == 0 {
            return 0.0;
        }
        let share = f64::from(self.experts) / f64::from(all);
        let none = none_chosen(all, self.experts, used);
        (1.0 - none) * self.fixed_s + f64::from(used) * share * self.expert_s
    }
}

/// Probability that none of `held` experts is among `used` chosen of `all`.
fn none_chosen(all: u32, held: u32, used: u32) -> f64 {
    let others = all.saturating_sub(held);
    (0..used)
        .map(|at| f64::from(others.saturating_sub(at)) / f64::from(all.saturating_sub(at).max(1)))
        .product()
}

/// Expected seconds until every holder is done with one row that uses `used` experts of all that are held.
pub(crate) fn expected_s(holders: &[Holder], used: u32) -> f64 {
    let all: u32 = holders.iter().map(|holder| holder.experts).sum();
    let used = used.min(all);
    let mean = |holder: &Holder| holder.mean_s(all, used);
    if used > USED_MAX || holders.len() < 2 {
        return holders.iter().map(mean).fold(0.0, f64::max);
    }
    // In ascending order of time: which holder is then done with one chosen expert more.
    let mut events: Vec<(f64, usize)> = holders
        .iter()
        .enumerate()
        .flat_map(|(at, holder)| {
            let most = used.min(holder.experts);
            (1..=most).map(move |chosen| (holder.cost_s(chosen), at))
        })
        .collect();
    events.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let ways_in_all = ways_to_choose(all, used, all);
    let mut ways = Ways::new(holders, used, all);
    let (mut expected_s, mut before) = (0.0, 0.0);
    for (time_s, at) in events {
        ways.one_more(at);
        let done = ways.count() / ways_in_all;
        expected_s += time_s * (done - before).max(0.0);
        before = done;
        if done > DONE {
            break;
        }
    }
    expected_s
}

/// Ways to choose `count` of `experts`, divided by `all^count`.
fn ways_to_choose(experts: u32, count: u32, all: u32) -> f64 {
    (0..count)
        .map(|at| f64::from(experts.saturating_sub(at)) / f64::from((at + 1) * all.max(1)))
        .product()
}

/// Ways to choose `used` experts where each holder gives at most so many; divided by `all^used`, so that the numbers
/// stay small.
///
/// A tree over the holders: a node has, for each count up to `used`, the ways to choose that many from the holders below
/// it. A holder that may give one more changes just the nodes above it.
struct Ways<'h> {
    holders: &'h [Holder],
    all: u32,
    /// Most of each holder so far.
    most: Vec<u32>,
    /// Counts of a node.
    width: usize,
    /// Holders, filled up to a power of two.
    leaves: usize,
    /// Of node `i` at `i * width`; the root is node 1, the children of `i` are `2 i` and `2 i + 1`.
    nodes: Vec<f64>,
    change: Vec<f64>,
    carried: Vec<f64>,
}

impl<'h> Ways<'h> {
    fn new(holders: &'h [Holder], used: u32, all: u32) -> Self {
        let leaves = holders.len().next_power_of_two();
        let width = used as usize + 1;
        let mut nodes = vec![0.0; 2 * leaves * width];
        for none_chosen in nodes.iter_mut().step_by(width) {
            *none_chosen = 1.0;
        }
        Self {
            holders,
            all,
            most: vec![0; holders.len()],
            width,
            leaves,
            nodes,
            change: vec![0.0; width],
            carried: vec![0.0; width],
        }
    }

    /// The ways, with all holders.
    fn count(&self) -> f64 {
        self.nodes[2 * self.width - 1]
    }

    /// A holder may give one expert more.
    fn one_more(&mut self, at: usize) {
        self.most[at] += 1;
        let chosen = self.most[at] as usize;
        self.change.fill(0.0);
        self.change[chosen] = ways_to_choose(self.holders[at].experts, self.most[at], self.all);
        let mut node = self.leaves + at;
        loop {
            let own = &mut self.nodes[node * self.width..(node + 1) * self.width];
            for (to, more) in own.iter_mut().zip(&self.change) {
                *to += more;
            }
            if node == 1 {
                return;
            }
            let sibling = &self.nodes[(node ^ 1) * self.width..((node ^ 1) + 1) * self.width];
            self.carried.fill(0.0);
            for (count, change) in self.change.iter().enumerate().skip(chosen) {
                for (to, ways) in self.carried[count..].iter_mut().zip(sibling) {
                    *to += change * ways;
                }
            }
            std::mem::swap(&mut self.change, &mut self.carried);
            node /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holder(experts: u32, fixed_s: f64, expert_s: f64) -> Holder {
        Holder {
            experts,
            fixed_s,
            expert_s,
        }
    }

    /// By walking through every set of chosen experts.
    fn by_enumeration(holders: &[Holder], used: u32) -> f64 {
        let owner: Vec<usize> = holders
            .iter()
            .enumerate()
            .flat_map(|(at, holder)| vec![at; holder.experts as usize])
            .collect();
        let (mut sum, mut sets) = (0.0, 0.0);
        for bits in 0u32..1 << owner.len() {
            if bits.count_ones() != used {
                continue;
            }
            let mut chosen = vec![0u32; holders.len()];
            for (expert, at) in owner.iter().enumerate() {
                chosen[*at] += bits >> expert & 1;
            }
            let costs = holders
                .iter()
                .zip(&chosen)
                .map(|(h, chosen)| h.cost_s(*chosen));
            sum += costs.fold(0.0, f64::max);
            sets += 1.0;
        }
        sum / sets
    }

    #[test]
    fn two_equal_nodes_wait_for_the_unluckier_one() {
        let two = [holder(128, 0.0, 1.0), holder(128, 0.0, 1.0)];
        let expected = expected_s(&two, 8);
        assert!((5.0..5.15).contains(&expected), "{expected}");
        assert_eq!(expected_s(&[holder(256, 0.0, 1.0)], 8), 8.0);
    }

    proptest! {
        #[test]
        fn the_expectation_is_that_of_all_routings(
            parts in prop::collection::vec((0u32..5, 0u32..4, 1u32..5), 1..5),
            used in 1u32..6,
        ) {
            let holders: Vec<Holder> = parts
                .iter()
                .map(|(experts, fixed, each)| holder(*experts, f64::from(*fixed), f64::from(*each)))
                .collect();
            let all: u32 = parts.iter().map(|part| part.0).sum();
            prop_assume!(all >= used);
            let expected = by_enumeration(&holders, used);
            let got = expected_s(&holders, used);
            if holders.len() > 1 {
                prop_assert!((got - expected).abs() < 1e-9 * expected.max(1.0), "{got} {expected}");
            }
            let slowest = holders.iter().map(|h| h.mean_s(all, used)).fold(0.0, f64::max);
            prop_assert!(got >= slowest - 1e-9, "never faster than the slowest on average");
        }

        #[test]
        fn a_faster_holder_never_makes_it_slower(
            parts in prop::collection::vec((1u32..40, 0u32..400, 1u32..100), 2..6),
            used in 1u32..10,
            at in 0usize..6,
        ) {
            let holders: Vec<Holder> = parts
                .iter()
                .map(|(experts, fixed, each)| holder(*experts, f64::from(*fixed), f64::from(*each)))
                .collect();
            let mut faster = holders.clone();
            let at = at % faster.len();
            faster[at].expert_s *= 0.7;
            faster[at].fixed_s *= 0.9;
            prop_assert!(expected_s(&faster, used) <= expected_s(&holders, used) * (1.0 + 1e-9));
        }
    }
}
