//! Where the coordinator may be, for a machine that belongs to its household already.
//!
//! Must never trust an announced address: it is merely tried, and the coordinator's key has to be proven there. The
//! network is asked only while there is no connection.

use std::net::SocketAddr;

use proto::limits::ADDRESSES_MAX;
use transport::Browser;

/// Addresses that are tried although nobody announces them.
const REMEMBERED_MAX: usize = ADDRESSES_MAX / 2;

/// Listens for coordinators while it is wanted.
#[derive(Debug)]
pub struct Seeker {
    allowed: bool,
    browser: Option<Browser>,
}

impl Seeker {
    /// One that may ask the network, or one that never does.
    #[must_use]
    pub fn new(allowed: bool) -> Self {
        Self {
            allowed,
            browser: None,
        }
    }

    /// Asks the network, if it does not already.
    pub fn begin(&mut self) {
        if !self.allowed || self.browser.is_some() {
            return;
        }
        match Browser::start() {
            Ok(browser) => self.browser = Some(browser),
            Err(error) => {
                tracing::warn!(%error, "only the addresses that are remembered are tried");
                self.allowed = false;
            }
        }
    }

    /// Asks no more.
    pub fn end(&mut self) {
        self.browser = None;
    }

    /// What to try now: the addresses where the coordinator was, then those that are announced.
    pub fn addresses(&mut self, remembered: &[SocketAddr]) -> Vec<SocketAddr> {
        let announced = self.browser.as_mut().map(Browser::proposed);
        merge(remembered, &announced.unwrap_or_default())
    }
}

fn merge(remembered: &[SocketAddr], announced: &[SocketAddr]) -> Vec<SocketAddr> {
    let fresh: Vec<&SocketAddr> = announced
        .iter()
        .filter(|address| !remembered.contains(address))
        .take(ADDRESSES_MAX - REMEMBERED_MAX)
        .collect();
    let room = ADDRESSES_MAX - fresh.len();
    let kept = remembered.iter().take(room);
    kept.chain(fresh).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(range: std::ops::Range<u8>) -> Vec<SocketAddr> {
        range
            .map(|n| SocketAddr::from(([10, 0, 0, n], 7411)))
            .collect()
    }

    #[test]
    fn remembered_addresses_go_first_and_announced_ones_have_room() {
        assert_eq!(merge(&places(0..3), &places(2..5)), places(0..5));
        assert_eq!(merge(&places(0..16), &[]), places(0..16));
        let both = merge(&places(0..16), &places(20..60));
        assert_eq!(both.len(), ADDRESSES_MAX);
        assert_eq!(both[..8], places(0..8));
        assert_eq!(both[8..], places(20..28));
    }

    #[test]
    fn one_that_may_not_ask_never_does() {
        let mut seeker = Seeker::new(false);
        seeker.begin();
        assert!(seeker.browser.is_none());
        assert_eq!(seeker.addresses(&places(0..2)), places(0..2));
    }
}
