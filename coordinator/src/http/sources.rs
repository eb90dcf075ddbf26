//! How many connections each address has open. Knows no socket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::HttpLimits;

/// Open connections by address. As many entries as connections, at most.
#[derive(Debug, Default)]
pub(super) struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place beside others of its address, given back when it is dropped.
#[derive(Debug)]
pub(super) struct SourcePlace {
    sources: Arc<Sources>,
    address: IpAddr,
}

impl Sources {
    /// A place for one more connection, unless its address has as many as it may.
    pub(super) fn enter(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &HttpLimits,
    ) -> Option<SourcePlace> {
        let address = address.to_canonical();
        let most = if address.is_loopback() {
            limits.connections_loopback_max
        } else {
            limits.connections_per_source_max
        };
        let mut open = self.open();
        let of_address = open.get(&address).copied().unwrap_or_default();
        if of_address >= most {
            return None;
        }
        open.insert(address, of_address + 1);
        Some(SourcePlace {
            sources: Arc::clone(self),
            address,
        })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut open = self.sources.open();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_places_and_this_machine_has_more() {
        let limits = HttpLimits {
            connections_per_source_max: 2,
            connections_loopback_max: 3,
            ..HttpLimits::default()
        };
        let sources = Arc::new(Sources::default());
        let enter = |address: &str| sources.enter(address.parse().unwrap(), &limits);
        let mut held: Vec<_> = (0..2).map(|_| enter("192.168.1.5").unwrap()).collect();
        assert!(enter("192.168.1.5").is_none());
        assert!(
            enter("::ffff:192.168.1.5").is_none(),
            "the same, written otherwise"
        );
        held.extend(enter("192.168.1.6"));
        for _ in 0..3 {
            held.extend(enter("127.0.0.1"));
        }
        assert_eq!(held.len(), 6);
        assert!(enter("127.0.0.1").is_none());
        held.swap_remove(0);
        assert!(enter("192.168.1.5").is_some());
        drop(held);
        assert!(sources.open().is_empty());
    }
}
