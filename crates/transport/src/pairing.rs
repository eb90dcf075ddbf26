//! How a stranger becomes a member: one stream, a few messages, one answer.
//!
//! Owns the pairing protocol on both sides and its bounds: 4 KiB, 10 s, 16 devices at once; of those who wait on the
//! owner's screen 8, for 90 s. Must never decide who is let in: the daemon compares secrets, opens codes and answers.
//!
//! There are three rights. The secret of a URL is shown to the key that the URL names and to nobody else. A short code
//! is proven to whoever answers, and never shown (`code`). A request on the owner's screen stands there with four check
//! words, which differ as soon as anybody sits between the two.

use std::net::SocketAddr;
use std::time::Duration;

use proto::{NodeId, limits};
use tokio::sync::oneshot;

use crate::invite::Secret;
use crate::words::CheckWords;

mod code;
mod codes;
mod guest;
mod host;
mod talk;

pub use code::{ShortCode, ShortCodeError};
pub use codes::{Codes, FailedCode};
pub use guest::Found;
pub(crate) use host::PairingDesk;

const TIME: Duration = Duration::from_millis(limits::PAIRING_MS_MAX);
/// What names our use of a channel's secret.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-hearth-pair/2";

/// A device that asks to become a member.
#[derive(Debug)]
pub struct PairingRequest {
    /// Its key.
    pub node: NodeId,
    /// Where it is.
    pub remote: SocketAddr,
    /// What its owner calls it.
    pub name: String,
    /// By what right.
    pub claim: PairingClaim,
    /// The daemon's answer; dropping it breaks the pairing off. Closed when nobody waits for it any more.
    pub reply: oneshot::Sender<PairingAnswer>,
}

/// By what right a device asks.
#[derive(Debug)]
pub enum PairingClaim {
    /// It has shown this invite's secret, or proven the short code that stood for it.
    Invite(Secret),
    /// None: the owner has to compare these words with those on the device's screen.
    Screen(CheckWords),
}

/// The daemon's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairingAnswer {
    /// It is a member now: stored, and admitted to [`crate::Members`] before this answer is given.
    Accept,
    /// It is not.
    Refuse(PairingRefusal),
}

/// Why a device is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PairingRefusal {
    /// No invite has this secret.
    InviteUnknown,
    /// Somebody has used it already.
    InviteUsed,
    /// It is too old.
    InviteExpired,
    /// No short code is open.
    CodeNone,
    /// The short code was wrong.
    CodeWrong,
    /// The owner said no.
    KnockDenied,
    /// The owner said nothing.
    KnockExpired,
    /// Too many devices wait on the owner's screen.
    KnocksMany,
    /// The household has as many members as it can.
    HouseholdFull,
    /// The service is ending.
    Ending,
}

impl PairingRefusal {
    /// The stable code that the device sees.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            PairingRefusal::InviteUnknown => "invite_unknown",
            PairingRefusal::InviteUsed => "invite_used",
            PairingRefusal::InviteExpired => "invite_expired",
            PairingRefusal::CodeNone => "code_none",
            PairingRefusal::CodeWrong => "code_wrong",
            PairingRefusal::KnockDenied => "denied",
            PairingRefusal::KnockExpired => "not_approved",
            PairingRefusal::KnocksMany => "too_many_waiting",
            PairingRefusal::HouseholdFull => "household_full",
            PairingRefusal::Ending => "ending",
        }
    }

    /// What its owner reads.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            PairingRefusal::InviteUnknown => {
                "this household has not issued the invite: make a new one with `coordinator invite`"
            }
            PairingRefusal::InviteUsed => {
                "the invite was used already, and each is good for one device: make a new one with `coordinator invite`"
            }
            PairingRefusal::InviteExpired => {
                "the invite has expired or was withdrawn: make a new one with `coordinator invite`"
            }
            PairingRefusal::CodeNone => {
                "no short code is open there (one is good once, for a few minutes, until somebody tries a wrong one): make a new one with `coordinator invite`"
            }
            PairingRefusal::CodeWrong => {
                "the short code was wrong and is void now: make a new one with `coordinator invite`"
            }
            PairingRefusal::KnockDenied => "its owner said no",
            PairingRefusal::KnockExpired => {
                "its owner did not answer in time: ask again, and approve it there with `coordinator approve`"
            }
            PairingRefusal::KnocksMany => {
                "too many devices wait there to be let in: try again in two minutes, or use `coordinator invite`"
            }
            PairingRefusal::HouseholdFull => {
                "the household has no room for another device: remove one with `coordinator kick`"
            }
            PairingRefusal::Ending => "the coordinator is ending: try again when it is back",
        }
    }
}

/// What only the two ends of a connection can know.
fn exporter(connection: &quinn::Connection) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    connection
        .export_keying_material(&mut bytes, EXPORTER_LABEL, &[])
        .map_err(|_| "the connection has no secret to bind to".to_owned())?;
    Ok(bytes)
}
