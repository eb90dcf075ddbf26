//! How this machine comes into a household: by what it remembers, an invite's URL, a short code, or the owner's word.
//!
//! Owns the search for households and the conversation with whoever sits at this machine. Must never spend a short code on
//! a guess: one wrong attempt voids a code for good, so it is tried only where a code is open, and where several
//! households wait for one, a person has to say which (or `--coordinator` does). What a household says of itself before
//! that is not believed: a stranger that claims to wait for a code gets one guess in a million out of it.

use std::io::{BufRead, IsTerminal, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use command::{Failure, Outcome};
use proto::NodeId;
use proto::limits::ADDRESSES_MAX;
use transport::{
    Browser, CheckWords, Found, Identity, Invite, PairError, Peer, Role, Settings, ShortCode,
    Sockets, Timing, TransportError,
};

use crate::household::Household;

/// How long households have to answer the first question.
const BROWSE: Duration = Duration::from_secs(3);
/// Addresses that are looked at in one search.
const LOOKS_MAX: usize = 32;

/// By what right this machine comes in.
#[derive(Debug, Clone)]
pub enum Right {
    /// It is a member already.
    Member,
    /// It was shown an invite.
    Url(Invite),
    /// It was told a short code.
    Code(ShortCode),
    /// The owner will say so on the coordinator's screen.
    Ask,
}

/// Where to go, and by what right.
#[derive(Debug)]
pub struct Entry {
    /// The household.
    pub home: Household,
    /// The right.
    pub right: Right,
}

/// Where households are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search<'a> {
    /// At this HOST:PORT.
    At(&'a str),
    /// On the network.
    Network,
    /// Nowhere: the owner wants no multicast.
    Off,
}

/// A household that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    coordinator: NodeId,
    addresses: Vec<SocketAddr>,
    code_open: bool,
}

impl Candidate {
    fn line(&self) -> String {
        let place = self.addresses.first();
        format!(
            "{}  at {}{}",
            CheckWords::of_key(&self.coordinator),
            place.map(ToString::to_string).unwrap_or_default(),
            if self.code_open {
                "  (waits for a code)"
            } else {
                ""
            },
        )
    }
}

/// Reads what stands behind `join`: a short code or a URL.
///
/// # Errors
/// It is neither.
pub fn read_right(word: Option<&str>, ask: bool) -> Result<Option<Right>, Failure> {
    let Some(word) = word else {
        return Ok(ask.then_some(Right::Ask));
    };
    if ask {
        return Err(Failure::Usage(
            "--ask and an invite came together; --ask needs none".to_owned(),
        ));
    }
    let like_a_code = |c: char| c.is_ascii_digit() || c == '-' || c == ' ';
    let right = if word.chars().all(like_a_code) {
        word.parse()
            .map(Right::Code)
            .map_err(|e: transport::ShortCodeError| e.to_string())
    } else {
        word.parse()
            .map(Right::Url)
            .map_err(|e: transport::InviteError| e.to_string())
    };
    right
        .map(Some)
        .map_err(|text| Failure::Usage(format!("invite: {text}")))
}

/// Finds out where to go, asking the person at this machine where that is not clear.
///
/// # Errors
/// No household is known or found, or it is not clear which is meant and there is nobody to ask.
pub async fn find(dir: &Path, right: Option<Right>, search: Search<'_>) -> Result<Entry, Failure> {
    let known = Household::load(dir)?;
    let (mut home, right) = match (right, known) {
        (Some(Right::Url(invite)), _) => (household_of(&invite), Right::Url(invite)),
        (None, Some(known)) => (known, Right::Member),
        (right, _) => {
            let found = survey(search).await?;
            let (chosen, right) = choose(found, right, search)?;
            let home = Household {
                coordinator: chosen.coordinator,
                addresses: chosen.addresses,
            };
            return Ok(Entry { home, right });
        }
    };
    if let Search::At(place) = search {
        home.addresses.splice(0..0, resolve(place)?);
        home.addresses.truncate(ADDRESSES_MAX);
    }
    Ok(Entry { home, right })
}

fn household_of(invite: &Invite) -> Household {
    Household {
        coordinator: invite.coordinator.clone(),
        addresses: invite.addresses.clone(),
    }
}

fn resolve(place: &str) -> Result<Vec<SocketAddr>, Failure> {
    let found = place.to_socket_addrs().map_err(|e| {
        Failure::Usage(format!(
            "--coordinator {place}: {e}; HOST:PORT was expected, such as 192.168.1.10:7411"
        ))
    })?;
    Ok(found.take(ADDRESSES_MAX).collect())
}

/// All households that answer where they are looked for.
async fn survey(search: Search<'_>) -> Result<Vec<Candidate>, Failure> {
    let addresses = match search {
        Search::At(place) => resolve(place)?,
        Search::Off => {
            return Err(Failure::Usage(
                "this machine belongs to no household yet, and with --discovery off none is looked for: run `coordinator invite` on the coordinator and give its URL here (node join hearth://...), or the code and --coordinator HOST:PORT".to_owned(),
            ));
        }
        Search::Network => {
            let mut browser = Browser::start()?;
            tokio::time::sleep(BROWSE).await;
            browser.proposed()
        }
    };
    // A key of its own for this look around: what answers need not learn who this machine is.
    let stranger = Identity::generate();
    let sockets = open(&stranger, &addresses)?;
    let looks = addresses.iter().take(LOOKS_MAX);
    let looks = looks.map(|address| sockets.endpoint.look(*address));
    let looks = futures::future::join_all(looks).await;
    sockets.endpoint.close().await;
    let (mut found, mut last) = (Vec::new(), None);
    for look in looks {
        match look {
            Ok(seen) => found.push(seen),
            Err(error) => {
                tracing::debug!(%error, "no household there");
                last = Some(error);
            }
        }
    }
    match (found.is_empty(), last, search) {
        (true, Some(error), Search::At(_)) => Err(error.into()),
        (true, ..) => Err(Failure::Failed(
            "no household answers on this network: is `coordinator serve` running, and does a firewall let UDP port 5353 and its own through? Otherwise say where it is with --coordinator HOST:PORT, or give the URL that `coordinator invite` prints".to_owned(),
        )),
        _ => Ok(gather(found)),
    }
}

/// One candidate for each key, whatever the addresses at which it answered.
fn gather(found: Vec<Found>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for seen in found {
        match candidates
            .iter_mut()
            .find(|c| c.coordinator == seen.coordinator)
        {
            Some(known) => {
                known.code_open |= seen.code_open;
                known.addresses.push(seen.address);
                known.addresses.truncate(ADDRESSES_MAX);
            }
            None => candidates.push(Candidate {
                coordinator: seen.coordinator,
                addresses: vec![seen.address],
                code_open: seen.code_open,
            }),
        }
    }
    candidates
}

/// Which household is meant, and by what right.
fn choose(
    found: Vec<Candidate>,
    right: Option<Right>,
    search: Search<'_>,
) -> Result<(Candidate, Right), Failure> {
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let mut person = terminal.then(|| Person {
        input: std::io::stdin().lock(),
        screen: std::io::stderr(),
    });
    decide(found, right, search, person.as_mut())
}

fn decide<I: BufRead, S: Write>(
    found: Vec<Candidate>,
    right: Option<Right>,
    search: Search<'_>,
    person: Option<&mut Person<I, S>>,
) -> Result<(Candidate, Right), Failure> {
    let mut meant = found;
    if let Some(Right::Code(_)) = right {
        let all = meant.len();
        meant.retain(|candidate| candidate.code_open);
        if meant.is_empty() {
            return Err(Failure::Failed(format!(
                "none of the {all} households found waits for a short code (one is good once, for a few minutes, until somebody tries a wrong one): make a new one with `coordinator invite`"
            )));
        }
    }
    match (person, right) {
        (_, Some(right)) if meant.len() == 1 => Ok((meant.remove(0), right)),
        (None, right) => Err(nobody_to_ask(&meant, right.as_ref(), search)),
        (Some(person), Some(right)) => Ok((person.which(meant)?, right)),
        (Some(person), None) => {
            let chosen = person.which(meant)?;
            let right = person.right()?;
            Ok((chosen, right))
        }
    }
}

/// Without a terminal the choice has to stand on the command line.
fn nobody_to_ask(found: &[Candidate], right: Option<&Right>, search: Search<'_>) -> Failure {
    let lines: Vec<String> = found.iter().map(|c| format!("  {}", c.line())).collect();
    let lines = lines.join("\n");
    let what = match (right, search) {
        (Some(_), _) => {
            "several are meant, and there is no terminal to ask which: name one with --coordinator HOST:PORT, or give the URL that its `coordinator invite` prints"
        }
        (None, _) => {
            "there is no terminal to ask which and for the code: run `coordinator invite` there, then `node join CODE` or `node join URL` here; or `node join --ask`"
        }
    };
    Failure::Usage(format!(
        "this machine belongs to no household yet. Found:\n{lines}\n{what}"
    ))
}

/// Whoever sits at this machine.
struct Person<I, S> {
    input: I,
    screen: S,
}

impl<I: BufRead, S: Write> Person<I, S> {
    /// Asks until the answer can be used, a few times at most.
    fn ask<T>(
        &mut self,
        question: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        for _ in 0..3 {
            write!(self.screen, "{question} ")?;
            self.screen.flush()?;
            let mut line = String::new();
            if self.input.read_line(&mut line)? == 0 {
                break;
            }
            match read(line.trim()) {
                Ok(value) => return Ok(value),
                Err(text) => writeln!(self.screen, "{text}")?,
            }
        }
        Err(Failure::Usage(
            "no answer that can be used came; start again when you know which household and its code".to_owned(),
        ))
    }

    fn which(&mut self, mut found: Vec<Candidate>) -> Result<Candidate, Failure> {
        writeln!(
            self.screen,
            "Households on this network (the words are those of `coordinator invite` there):"
        )?;
        for (number, candidate) in (1..).zip(&found) {
            writeln!(self.screen, "  {number}  {}", candidate.line())?;
        }
        let count = found.len();
        let at = self.ask("Which one? [1]", |answer| match answer.parse::<usize>() {
            Ok(number) if (1..=count).contains(&number) => Ok(number - 1),
            _ if answer.is_empty() => Ok(0),
            _ => Err(format!(
                "'{answer}' came; a number from 1 to {count} was expected"
            )),
        })?;
        Ok(found.swap_remove(at))
    }

    fn right(&mut self) -> Result<Right, Failure> {
        let question =
            "Code that `coordinator invite` shows there (or `ask`, to be approved on its screen):";
        self.ask(question, |answer| match answer {
            "ask" => Ok(Right::Ask),
            code => code
                .parse()
                .map(Right::Code)
                .map_err(|e: transport::ShortCodeError| e.to_string()),
        })
    }
}

/// Opens the mesh socket: on loopback alone for a household on this very machine, otherwise for IPv4 and IPv6.
///
/// # Errors
/// When no socket can be opened.
pub fn open(identity: &Identity, household: &[SocketAddr]) -> Result<Sockets, TransportError> {
    let at = |bind: SocketAddr| {
        let settings = Settings {
            bind,
            role: Role::Node,
            timing: Timing::default(),
        };
        transport::open(identity, settings)
    };
    if is_on_this_machine(household) {
        return at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    }
    // A machine without IPv6 has IPv4.
    at(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))
        .or_else(|_| at(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))
}

/// Only a household on this very machine is reached over loopback alone.
#[must_use]
pub fn is_on_this_machine(household: &[SocketAddr]) -> bool {
    let loopback = |address: &SocketAddr| address.is_ipv4() && address.ip().is_loopback();
    !household.is_empty() && household.iter().all(loopback)
}

/// Uses the right, and remembers the household.
///
/// # Errors
/// The household refuses, or cannot be reached.
pub async fn come_in(entry: &Entry, sockets: &Sockets, dir: &Path, name: &str) -> Outcome {
    let endpoint = &sockets.endpoint;
    let peer = Peer {
        node: entry.home.coordinator.clone(),
        addresses: entry.home.addresses.clone(),
    };
    match &entry.right {
        Right::Member => {}
        Right::Url(invite) => {
            let shown = endpoint.pair(invite, name).await;
            let known = Household::load(dir)?;
            let known = known.is_some_and(|home| home.coordinator == entry.home.coordinator);
            match shown {
                // A service that always starts with its invite: it was used, by this machine.
                Err(error) if known && is_spent(&error) => {
                    tracing::debug!(%error, "the invite is not needed any more");
                }
                shown => shown?,
            }
        }
        Right::Code(code) => endpoint.pair_by_code(&peer, code, name).await?,
        Right::Ask => {
            let show = |words: CheckWords| {
                eprintln!(
                    "Waiting to be let in. `coordinator approve` there must show these words beside this machine:\n\n  {words}\n"
                );
            };
            endpoint.knock(&peer, name, show).await?;
        }
    }
    if !matches!(entry.right, Right::Member) {
        tracing::info!(coordinator = %entry.home.coordinator, words = %CheckWords::of_key(&entry.home.coordinator), "paired");
    }
    Ok(entry.home.save(dir)?)
}

/// Whether a member that comes back need not care.
fn is_spent(error: &PairError) -> bool {
    match error {
        PairError::Refused { code, .. } => code.starts_with("invite_"),
        // It is tried again until it is reached.
        PairError::Dial(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
