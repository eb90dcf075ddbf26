//! Devices that ask on the owner's screen to be let in.
//!
//! Owns who waits and under which number and words. Must never let anybody in: it hands out the one that the owner named.
//! How long a device may wait is up to the transport, which closes its end of the answer; here that is merely noticed.

use std::net::SocketAddr;
use std::time::Duration;

use proto::{NodeId, limits};
use serde::Serialize;
use tokio::sync::oneshot;
use transport::{CheckWords, PairingAnswer, PairingRefusal};

/// What the owner sees of a device that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct KnockFacts {
    /// Tells it from the others; never given twice while the service runs.
    pub number: u64,
    pub name: String,
    pub address: String,
    /// Must stand on the device's screen as well.
    pub words: String,
    /// How long it has waited.
    pub waits_s: u64,
    /// How long it will.
    pub expires_s: u64,
    #[serde(skip)]
    since: Duration,
}

impl KnockFacts {
    pub fn new(name: String, remote: SocketAddr, words: CheckWords) -> Self {
        Self {
            number: 0,
            name,
            address: remote.to_string(),
            words: words.to_string(),
            waits_s: 0,
            expires_s: 0,
            since: Duration::ZERO,
        }
    }

    fn at(&self, now: Duration) -> Self {
        let waited = now.saturating_sub(self.since);
        let whole = Duration::from_millis(limits::KNOCK_MS_MAX);
        Self {
            waits_s: waited.as_secs(),
            expires_s: whole.saturating_sub(waited).as_secs(),
            ..self.clone()
        }
    }

    fn host(&self) -> Option<std::net::IpAddr> {
        let address: SocketAddr = self.address.parse().ok()?;
        Some(address.ip())
    }
}

/// A device that waits.
#[derive(Debug)]
pub(super) struct Knock {
    pub facts: KnockFacts,
    pub node: NodeId,
    pub reply: oneshot::Sender<PairingAnswer>,
}

impl Knock {
    fn refuse(self, refusal: PairingRefusal) {
        // It may have gone already.
        let _gone = self.reply.send(PairingAnswer::Refuse(refusal));
    }

    /// Tells the device that its owner said no.
    pub fn deny(self) -> KnockFacts {
        let facts = self.facts.clone();
        self.refuse(PairingRefusal::KnockDenied);
        facts
    }
}

/// All that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Knocks {
    waiting: Vec<Knock>,
    last: u64,
}

impl Knocks {
    fn sweep(&mut self) {
        self.waiting.retain(|knock| !knock.reply.is_closed());
    }

    /// Takes a device in line, unless there are too many of its kind. One that asks again takes its old place's stead.
    pub fn add(&mut self, now: Duration, mut knock: Knock) {
        self.sweep();
        self.waiting.retain(|other| other.node != knock.node);
        let host = knock.facts.host();
        let same_host = self
            .waiting
            .iter()
            .filter(|other| other.facts.host() == host)
            .count();
        if self.waiting.len() >= limits::KNOCKS_MAX || same_host >= limits::KNOCKS_PER_ADDRESS_MAX {
            return knock.refuse(PairingRefusal::KnocksMany);
        }
        self.last += 1;
        knock.facts.number = self.last;
        knock.facts.since = now;
        tracing::info!(
            number = self.last,
            name = knock.facts.name,
            remote = knock.facts.address,
            "a device asks to be let in: compare its words with `coordinator approve`"
        );
        self.waiting.push(knock);
    }

    /// Those who still wait.
    pub fn list(&mut self, now: Duration) -> Vec<KnockFacts> {
        self.sweep();
        let facts = self.waiting.iter().map(|knock| knock.facts.at(now));
        facts.collect()
    }

    /// The device that the owner names by number or words.
    ///
    /// # Errors
    /// A sentence for the owner: nobody is meant, or more than one.
    pub fn take(&mut self, now: Duration, wanted: &str) -> Result<Knock, String> {
        let listed = self.list(now);
        let words: Option<CheckWords> = wanted.parse().ok();
        let words = words.map(|words| words.to_string());
        let is_meant = |facts: &KnockFacts| {
            wanted.trim() == facts.number.to_string() || words.as_ref() == Some(&facts.words)
        };
        let mut meant = (0..).zip(&listed).filter(|(_, facts)| is_meant(facts));
        match (meant.next(), meant.next()) {
            (Some((at, _)), None) => Ok(self.waiting.remove(at)),
            (None, _) if listed.is_empty() => {
                Err("no device waits to be let in; on the device, say `node join --ask`".to_owned())
            }
            (None, _) => Err(format!(
                "no device that waits has number or words '{wanted}'; `coordinator approve` lists those that do"
            )),
            // Nobody can choose the words that two connections come to, so this is chance or foul play: let nobody in.
            (Some(_), Some(_)) => Err(format!(
                "'{wanted}' means more than one device; name it by its number"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn knock(node: &str, address: &str, words: &str) -> (Knock, oneshot::Receiver<PairingAnswer>) {
        let (reply, answer) = oneshot::channel();
        let facts = KnockFacts::new(
            format!("{node}'s"),
            address.parse().unwrap(),
            words.parse().unwrap(),
        );
        let node = NodeId::new(node).unwrap();
        (Knock { facts, node, reply }, answer)
    }

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_owner_names_a_device_by_number_or_words() {
        let mut knocks = Knocks::default();
        let (a, _a) = knock("a", "192.0.2.1:5", "acorn actor adapt add");
        let (b, mut b_hears) = knock("b", "192.0.2.2:5", "zebra zero zest zoo");
        knocks.add(S, a);
        knocks.add(2 * S, b);
        let listed = knocks.list(31 * S);
        assert_eq!(listed.len(), 2);
        assert_eq!(
            (listed[0].number, listed[0].waits_s, listed[0].expires_s),
            (1, 30, 60)
        );
        for wrong in ["", "3", "a", "acorn actor adapt", "add adapt actor acorn"] {
            let error = knocks.take(S, wrong).unwrap_err();
            assert!(error.contains("coordinator approve"), "{error}");
        }
        let denied = knocks.take(S, "ZEBRA-zero zest zoo").unwrap().deny();
        assert_eq!(denied.number, 2);
        assert_eq!(
            b_hears.try_recv(),
            Ok(PairingAnswer::Refuse(PairingRefusal::KnockDenied))
        );
        assert_eq!(knocks.take(S, " 1 ").unwrap().node.as_str(), "a");
        assert!(knocks.take(S, "1").unwrap_err().contains("node join --ask"));
    }

    #[test]
    fn words_that_two_devices_show_let_nobody_in() {
        let mut knocks = Knocks::default();
        let (a, _a) = knock("a", "192.0.2.1:5", "acorn actor adapt add");
        let (b, _b) = knock("b", "192.0.2.2:5", "acorn actor adapt add");
        knocks.add(S, a);
        knocks.add(S, b);
        assert!(knocks.take(S, "acorn actor adapt add").is_err());
        assert!(knocks.take(S, "2").is_ok());
    }

    #[test]
    fn those_who_left_are_not_listed_and_who_asks_again_is_listed_once() {
        let mut knocks = Knocks::default();
        let (a, a_hears) = knock("a", "192.0.2.1:5", "acorn actor adapt add");
        let (again, _again) = knock("a", "192.0.2.1:6", "zebra zero zest zoo");
        let (b, b_hears) = knock("b", "192.0.2.1:7", "zebra zero zest zoom");
        knocks.add(S, a);
        knocks.add(S, again);
        knocks.add(S, b);
        drop((a_hears, b_hears));
        let listed = knocks.list(S);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].number, 2);
    }

    #[test]
    fn the_line_is_bounded_in_all_and_for_each_address() {
        let mut knocks = Knocks::default();
        let mut held = Vec::new();
        let mut came = |knocks: &mut Knocks, node: &str, address: &str| {
            let (one, hears) = knock(node, address, "acorn actor adapt add");
            knocks.add(S, one);
            held.push(hears);
            held.last_mut().unwrap().try_recv().ok()
        };
        let many = Some(PairingAnswer::Refuse(PairingRefusal::KnocksMany));
        assert_eq!(came(&mut knocks, "a", "192.0.2.1:1"), None);
        assert_eq!(came(&mut knocks, "b", "192.0.2.1:2"), None);
        assert_eq!(came(&mut knocks, "c", "192.0.2.1:3"), many);
        for at in 2..limits::KNOCKS_MAX {
            let address = format!("198.51.100.{at}:1");
            assert_eq!(came(&mut knocks, &format!("n{at}"), &address), None);
        }
        assert_eq!(came(&mut knocks, "d", "203.0.113.1:1"), many);
        assert_eq!(knocks.list(S).len(), limits::KNOCKS_MAX);
    }
}
