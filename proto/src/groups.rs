//! Sets of expert groups of one layer, and of head blocks: both are cut into at most 16 parts.

use std::fmt;

use crate::limits::EXPERT_GROUPS_MAX;

/// A set of expert groups of one layer, or of head blocks; at most 16 of either exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GroupSet(u16);

impl GroupSet {
    /// The first `groups` groups: all of a layer that has so many.
    #[must_use]
    pub fn all(groups: u32) -> Self {
        (0..groups.min(EXPERT_GROUPS_MAX)).fold(Self(0), Self::with)
    }

    /// No group.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// The set whose group `g` is bit `g`.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// Bit `g` for group `g`.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// This set and `group`; groups above 15 do not exist and are ignored.
    #[must_use]
    pub fn with(self, group: u32) -> Self {
        Self(self.0 | 1u16.checked_shl(group).unwrap_or(0))
    }

    /// The groups of either.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The groups of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The groups that both sets have.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The groups among the first `groups` that are not in this set.
    #[must_use]
    pub fn missing(self, groups: u32) -> Self {
        Self::all(groups).without(self)
    }

    /// Whether `group` is in the set.
    #[must_use]
    pub fn contains(self, group: u32) -> bool {
        1u16.checked_shl(group).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many groups it has.
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// Its groups, ascending.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..EXPERT_GROUPS_MAX).filter(move |group| self.contains(*group))
    }
}

impl fmt::Display for GroupSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, group) in self.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{group}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_added_and_taken_apart() {
        let low = GroupSet::all(4);
        assert_eq!(low.bits(), 0b1111);
        assert_eq!(low.missing(8), GroupSet::from_bits(0b1111_0000));
        assert_eq!(low.and(low.missing(8)), GroupSet::all(8));
        assert_eq!(GroupSet::all(8).without(low).len(), 4);
        assert_eq!(
            low.common(GroupSet::from_bits(0b11_1000)),
            GroupSet::none().with(3)
        );
        assert!(GroupSet::none().is_empty() && !low.is_empty());
        assert_eq!(low.iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert_eq!(low.to_string(), "0, 1, 2, 3");
    }

    #[test]
    fn groups_that_do_not_exist_are_ignored() {
        assert_eq!(GroupSet::none().with(16), GroupSet::none());
        assert_eq!(GroupSet::none().with(u32::MAX), GroupSet::none());
        assert_eq!(GroupSet::all(u32::MAX).len(), 16);
        assert!(!GroupSet::all(16).contains(16));
    }
}
