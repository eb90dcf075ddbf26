//! How much of the machine other programs take while something is measured.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::peer::Peer;

/// Begun before a measurement.
pub struct Watch {
    machine_ticks: u64,
    peer_s: f64,
    begun: Instant,
}

impl Watch {
    /// # Errors
    /// The kernel does not tell, or the child ended.
    pub fn begin(peer: &Peer) -> Result<Self> {
        Ok(Self {
            machine_ticks: busy_ticks(&std::fs::read_to_string("/proc/stat")?)?,
            peer_s: peer.cpu_s()?,
            begun: Instant::now(),
        })
    }

    /// Cores that were busy since, besides those that the measured child used.
    ///
    /// # Errors
    /// As above.
    pub fn cores_of_others(&self, peer: &Peer) -> Result<f64> {
        let now = Self::begin(peer)?;
        let ticks = now.machine_ticks.saturating_sub(self.machine_ticks);
        let busy_s = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
        let cores = (busy_s - (now.peer_s - self.peer_s)) / self.begun.elapsed().as_secs_f64();
        Ok(cores.max(0.0))
    }
}

/// All but idle and waiting time from the text of `/proc/stat`, what a hypervisor gave to others included.
fn busy_ticks(stat: &str) -> Result<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let fields = line.unwrap_or_default().split_whitespace();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests are counted in user and nice.
    let ticks: Option<Vec<u64>> = fields.take(8).map(|field| field.parse().ok()).collect();
    match ticks.as_deref() {
        Some([user, nice, system, _, _, irq, softirq, steal]) => {
            Ok(user + nice + system + irq + softirq + steal)
        }
        _ => None.context("no times in the stat of the machine"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let stat = "cpu  1 2 4 1000 2000 8 16 32 5000 6000\ncpu0 9 9 9 9 9 9 9 9 9 9\n";
        assert_eq!(busy_ticks(stat).unwrap(), 63);
        assert!(busy_ticks("cpu0 1 2 3 4 5 6 7 8\n").is_err());
        assert!(busy_ticks("cpu 1 2 3\n").is_err());
        assert!(busy_ticks(&std::fs::read_to_string("/proc/stat").unwrap()).is_ok());
    }
}
