//! One crossing of a link: when does a frame come out, if it does?
//!
//! Knows no socket and no clock. Whether the n-th frame is lost and how much it is late follows from the seed alone.

use std::time::Duration;

/// What one crossing does to frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Half {
    /// Added to every frame.
    pub delay: Duration,
    /// Most that is added beyond that.
    pub jitter: Duration,
    /// Frames lost, per million.
    pub loss_ppm: u32,
    /// Bits per second, at least 1.
    pub bits_per_s: u64,
    /// Bytes that may wait for the wire.
    pub queue_bytes: u64,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It comes out at this time, never before one that went in earlier.
    Out(Duration),
    /// It is lost on the way; it has taken its time on the wire.
    Lost,
    /// Too much waited for the wire already.
    Dropped,
}

/// One crossing with its state.
#[derive(Debug, Clone)]
pub struct Pipe {
    half: Half,
    random: SplitMix,
    /// When the wire has sent all that it was given.
    free_at: Duration,
    /// When the latest frame comes out.
    latest: Duration,
}

impl Pipe {
    /// A crossing without frames.
    #[must_use]
    pub fn new(half: Half, seed: u64) -> Self {
        Self {
            half,
            random: SplitMix(seed),
            free_at: Duration::ZERO,
            latest: Duration::ZERO,
        }
    }

    /// The time that `bytes` take on the wire.
    #[must_use]
    pub fn wire_time(&self, bytes: u64) -> Duration {
        let ns = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.half.bits_per_s.max(1));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// Offers a frame of `bytes` (what the wire adds included) at `now`, which never goes back.
    pub fn offer(&mut self, now: Duration, bytes: u64) -> Fate {
        let waiting = self.free_at.saturating_sub(now);
        if waiting > self.wire_time(self.half.queue_bytes) {
            return Fate::Dropped;
        }
        // Two draws for every frame that gets onto the wire, so that its fate depends on nothing but its number.
        let (loss, late) = (self.random.next(), self.random.next());
        self.free_at = self.free_at.max(now) + self.wire_time(bytes);
        if loss % 1_000_000 < u64::from(self.half.loss_ppm) {
            return Fate::Lost;
        }
        let jitter_ns = u64::try_from(self.half.jitter.as_nanos()).unwrap_or(u64::MAX);
        let late = Duration::from_nanos(late.checked_rem(jitter_ns.saturating_add(1)).unwrap_or(0));
        self.latest = self.latest.max(self.free_at + self.half.delay + late);
        Fate::Out(self.latest)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and any seed will do.
#[derive(Debug, Clone)]
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Link;
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_lone_frame_takes_delay_and_wire_time() {
        let mut pipe = Pipe::new(Link::GIGABIT.half(), 1);
        // 1250 bytes are 10 µs at 1 Gbit/s; a quarter of the round trip is 62.5 µs.
        let out = pipe.offer(100 * US, 1250);
        assert_eq!(out, Fate::Out(Duration::from_nanos(172_500)));
    }

    #[test]
    fn the_rate_is_kept_to_the_nanosecond_and_no_more_than_the_queue_waits() {
        let half = Half {
            queue_bytes: 125_000,
            ..Link::GIGABIT.half()
        };
        let mut pipe = Pipe::new(half, 1);
        let fates: Vec<Fate> = (0..200).map(|_| pipe.offer(US, 1250)).collect();
        // One is being sent, 100 wait (the last of them found 99 before it and one on the wire), the others are dropped.
        let out: Vec<Duration> = fates
            .iter()
            .filter_map(|fate| match fate {
                Fate::Out(at) => Some(*at),
                _ => None,
            })
            .collect();
        assert_eq!(out.len(), 101);
        assert!(fates.iter().skip(101).all(|fate| *fate == Fate::Dropped));
        assert!(out.windows(2).all(|two| two[1] - two[0] == 10 * US));
        // Once the queue has drained, frames are taken again.
        assert!(matches!(pipe.offer(2000 * US, 1250), Fate::Out(_)));
    }

    #[test]
    fn the_same_frames_are_lost_with_the_same_seed_and_as_many_as_said() {
        let half = Half {
            loss_ppm: 10_000,
            ..Link::GIGABIT.half()
        };
        let lost = |seed: u64, spacing: Duration| -> Vec<u32> {
            let mut pipe = Pipe::new(half, seed);
            (0..100_000u32)
                .filter(|at| pipe.offer(spacing * *at, 100) == Fate::Lost)
                .collect()
        };
        let first = lost(7, 20 * US);
        // Another rhythm of the same frames changes nothing.
        assert_eq!(first, lost(7, 35 * US));
        assert_ne!(first, lost(8, 20 * US));
        // 1,000 are expected; five standard deviations are 157.
        assert!((843..1157).contains(&first.len()), "{}", first.len());
    }

    #[test]
    fn jitter_stays_in_its_bounds_spreads_evenly_and_keeps_the_order() {
        let half = Link::BAD_WIFI.half();
        let half = Half {
            loss_ppm: 0,
            ..half
        };
        let mut pipe = Pipe::new(half, 3);
        let wire = pipe.wire_time(100);
        let mut added = Vec::new();
        let mut before = Duration::ZERO;
        for at in 0..10_000u32 {
            let now = Duration::from_millis(10) * at;
            let Fate::Out(out) = pipe.offer(now, 100) else {
                panic!("frame {at} did not come out");
            };
            assert!(out >= before);
            before = out;
            added.push(out - now - wire - half.delay);
        }
        assert!(added.iter().all(|late| *late <= half.jitter));
        let mean = added.iter().sum::<Duration>() / 10_000;
        // Half of the span within five standard deviations of the mean of 10,000 even draws.
        let off = mean.abs_diff(half.jitter / 2);
        assert!(off < half.jitter.mul_f64(0.015), "{mean:?}");
        // Frames close together are never turned round.
        let mut pipe = Pipe::new(half, 3);
        let outs: Vec<Fate> = (0..1000u32).map(|at| pipe.offer(US * at, 100)).collect();
        let times = outs.iter().map(|fate| match fate {
            Fate::Out(at) => *at,
            other => panic!("{other:?}"),
        });
        assert!(times.is_sorted());
    }
}
