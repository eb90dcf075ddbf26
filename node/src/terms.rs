//! The owner's terms: how much of this machine Hearth may use, and when.

use sysinfo::System;

pub mod duty;
pub mod given;
pub mod hours;
pub mod probe;

const GIB: u64 = 1 << 30;

/// What the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Physical memory.
    pub total_bytes: u64,
    /// Memory that could be used now without pushing others out.
    pub available_bytes: u64,
    /// Computing threads by default: physical cores that this process may use.
    pub threads: usize,
}

impl Machine {
    /// Looks at this machine.
    #[must_use]
    pub fn look() -> Self {
        let mut system = System::new();
        system.refresh_memory();
        Self {
            total_bytes: system.total_memory(),
            available_bytes: system.available_memory(),
            threads: crate::cores::Processors::look().default_threads(),
        }
    }

    /// Memory that is offered when the owner does not say: min(75 % of all, available − 2 GiB).
    #[must_use]
    pub fn default_memory_bytes(&self) -> u64 {
        let share = self.total_bytes / 4 * 3;
        share.min(self.available_bytes.saturating_sub(2 * GIB))
    }
}

/// This machine's processor in words, for the key of cached measurements.
#[must_use]
pub fn processor() -> String {
    let mut system = System::new();
    system.refresh_cpu_all();
    system
        .cpus()
        .first()
        .map_or_else(String::new, |cpu| cpu.brand().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_leaves_room_for_the_owner() {
        let machine = |total, available| Machine {
            total_bytes: total * GIB,
            available_bytes: available * GIB,
            threads: 4,
        };
        assert_eq!(machine(16, 16).default_memory_bytes(), 12 * GIB);
        assert_eq!(machine(16, 6).default_memory_bytes(), 4 * GIB);
        assert_eq!(machine(8, 1).default_memory_bytes(), 0);
    }

    #[test]
    fn this_machine_has_memory_and_threads() {
        let machine = Machine::look();
        assert!(machine.total_bytes > 0 && machine.threads > 0);
    }
}
