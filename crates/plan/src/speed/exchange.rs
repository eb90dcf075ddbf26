//! The time of one layer whose experts are on several nodes.
//!
//! Owns the expectation over routings. A row uses `k` of `E` experts, every set of `k` as likely as any other; each holder
//! works off those of its experts that were chosen, all holders at the same time, and the layer takes as long as the
//! slowest. That is more than the slowest holder's average: of 8 experts on two equal nodes 4 fall on each on average, but
//! about 5.1 on the one that has more.

/// Experts of one row beyond which the average counts instead of the distribution.
const USED_MAX: u32 = 64;

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

    /// How many chosen experts it is done with by `within_s`.
    fn reach(&self, within_s: f64, most: u32) -> u32 {
        let mut chosen = 0;
        while chosen < most && self.cost_s(chosen + 1) <= within_s {
            chosen += 1;
        }
        chosen
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
    let mut levels: Vec<f64> = holders
        .iter()
        .flat_map(|holder| (1..=used.min(holder.experts)).map(|chosen| holder.cost_s(chosen)))
        .collect();
    levels.sort_by(f64::total_cmp);
    levels.dedup();
    let mut sums = Sums::default();
    let ways_in_all = sums.ways(&[(all, used)], all, used);
    let mut reach: Vec<(u32, u32)> = Vec::with_capacity(holders.len());
    let (mut expected_s, mut before) = (0.0, 0.0);
    for level_s in levels {
        reach.clear();
        reach.extend(holders.iter().map(|holder| {
            let most = used.min(holder.experts);
            (holder.experts, holder.reach(level_s, most))
        }));
        let done = sums.ways(&reach, all, used) / ways_in_all;
        expected_s += level_s * (done - before).max(0.0);
        before = done;
    }
    expected_s
}

/// Buffers of a count.
#[derive(Default)]
struct Sums {
    sum: Vec<f64>,
    next: Vec<f64>,
}

impl Sums {
    /// Ways to choose `used` experts where holder `i` with `reach[i].0` experts gives at most `reach[i].1`; divided by
    /// `all^used`, so that the numbers stay small.
    fn ways(&mut self, reach: &[(u32, u32)], all: u32, used: u32) -> f64 {
        let used = used as usize;
        self.sum.clear();
        self.sum.resize(used + 1, 0.0);
        self.next.resize(used + 1, 0.0);
        self.sum[0] = 1.0;
        for (experts, most) in reach {
            self.next.fill(0.0);
            let mut choose = 1.0;
            for chosen in 0..=*most {
                let at = (chosen as usize).min(used);
                for (to, from) in self.next[at..].iter_mut().zip(&self.sum) {
                    *to += from * choose;
                }
                let rest = f64::from(experts.saturating_sub(chosen));
                choose *= rest / (f64::from(chosen + 1) * f64::from(all.max(1)));
            }
            std::mem::swap(&mut self.sum, &mut self.next);
        }
        self.sum[used]
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
