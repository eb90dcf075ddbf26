//! The messages of pairing, checked.
//!
//! Owns what an unknown device and a coordinator may say to each other before the device is a member. Must never decide
//! who is let in. Values that prove something are masked in `Debug` output.

use std::fmt;

use prost::Message;

use super::check::{Checked, filled, name, some, text, wrong};
use super::write::clip;
use super::{CODE_BYTES_MAX, ControlMessageError, Refused, TEXT_BYTES_MAX};

/// Version of the pairing messages.
pub const PAIRING_PROTOCOL: u32 = 2;
/// Bytes of an invite's secret.
pub const SECRET_BYTES: usize = 16;
/// Bytes of one half of the key exchange: its side and a point.
pub const ELEMENT_BYTES: usize = 33;
/// Bytes of a confirmation, a commitment or a share of the check words.
pub const PROOF_BYTES: usize = 32;

/// The generated messages.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    reason = "generated from pairing.proto, where the messages are described"
)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/hearth.pairing.v1.rs"));
}

/// What an unknown device says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// The name that the owner gave the machine; empty if and only if it just looks.
    pub name: String,
    /// By what right it wants to come in.
    pub claim: Claim,
}

/// By what right a device wants to come in.
#[derive(Clone, PartialEq, Eq)]
pub enum Claim {
    /// The secret of an invite's URL.
    Secret([u8; SECRET_BYTES]),
    /// A short code: the device's half of the key exchange.
    Element([u8; ELEMENT_BYTES]),
    /// None yet: it asks on the owner's screen, and commits to its share of the check words.
    Commitment([u8; PROOF_BYTES]),
    /// None: it wants to know whose household this is.
    Look,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Claim::Secret(_) => "Secret(masked)",
            Claim::Element(_) => "Element(..)",
            Claim::Commitment(_) => "Commitment(..)",
            Claim::Look => "Look",
        })
    }
}

/// What the coordinator says.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// The device is a member now; after a short code with the coordinator's own proof of knowing it.
    Accepted(Option<[u8; PROOF_BYTES]>),
    /// It is not.
    Refused(Refused),
    /// The coordinator's half of the key exchange.
    Element([u8; ELEMENT_BYTES]),
    /// The coordinator's share of the check words.
    Share([u8; PROOF_BYTES]),
    /// Whether a short code is open.
    View {
        /// Somebody may pair by short code now.
        code_open: bool,
    },
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Accepted(_) => f.write_str("Accepted(..)"),
            Reply::Refused(refused) => f.debug_tuple("Refused").field(refused).finish(),
            Reply::Element(_) => f.write_str("Element(..)"),
            Reply::Share(_) => f.write_str("Share(..)"),
            Reply::View { code_open } => write!(f, "View({code_open})"),
        }
    }
}

/// What a device says second.
#[derive(Clone, PartialEq, Eq)]
pub enum Proof {
    /// It knows the short code.
    Confirmation([u8; PROOF_BYTES]),
    /// What it committed to.
    Share([u8; PROOF_BYTES]),
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proof::Confirmation(_) => "Confirmation(masked)",
            Proof::Share(_) => "Share(..)",
        })
    }
}

fn bytes<const N: usize>(field: &'static str, value: Vec<u8>) -> Checked<[u8; N]> {
    let got = value.len();
    value
        .try_into()
        .map_err(|_| wrong(field, format!("{got} bytes"), format!("{N} bytes")))
}

/// Bytes that are no such message at all.
fn parsed<M: Message + Default>(field: &'static str, bytes: &[u8]) -> Checked<M> {
    M::decode(bytes).map_err(|_| {
        let got = format!("{} bytes of something else", bytes.len());
        wrong(field, got, "a message of pairing")
    })
}

impl Opening {
    /// Reads a message that came.
    ///
    /// # Errors
    /// The first field that says what none may say.
    pub fn decode(message: &[u8]) -> Result<Self, ControlMessageError> {
        use wire::opening::Claim as Wire;
        let opening: wire::Opening = parsed("opening", message)?;
        if opening.protocol != PAIRING_PROTOCOL {
            let expected =
                format!("{PAIRING_PROTOCOL}: both programs need the same version of Hearth");
            return Err(wrong("opening.protocol", opening.protocol, expected));
        }
        let claim = match some(opening.claim)? {
            Wire::Secret(value) => Claim::Secret(bytes("opening.secret", value)?),
            Wire::Element(value) => Claim::Element(bytes("opening.element", value)?),
            Wire::Commitment(value) => Claim::Commitment(bytes("opening.commitment", value)?),
            Wire::Look(wire::Look {}) => Claim::Look,
        };
        let name = match claim {
            Claim::Look if opening.name.is_empty() => String::new(),
            Claim::Look => return Err(wrong("opening.name", "a name", "none: it only looks")),
            _ => name("opening.name", opening.name)?,
        };
        Ok(Self { name, claim })
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use wire::opening::Claim as Wire;
        let claim = match &self.claim {
            Claim::Secret(value) => Wire::Secret(value.to_vec()),
            Claim::Element(value) => Wire::Element(value.to_vec()),
            Claim::Commitment(value) => Wire::Commitment(value.to_vec()),
            Claim::Look => Wire::Look(wire::Look {}),
        };
        let opening = wire::Opening {
            protocol: PAIRING_PROTOCOL,
            name: self.name.clone(),
            claim: Some(claim),
        };
        opening.encode_to_vec()
    }
}

impl Reply {
    /// Reads a message that came.
    ///
    /// # Errors
    /// The first field that says what none may say.
    pub fn decode(message: &[u8]) -> Result<Self, ControlMessageError> {
        use wire::reply::Kind;
        let reply: wire::Reply = parsed("reply", message)?;
        Ok(match some(reply.kind)? {
            Kind::Accepted(accepted) if accepted.confirmation.is_empty() => Reply::Accepted(None),
            Kind::Accepted(accepted) => {
                Reply::Accepted(Some(bytes("reply.confirmation", accepted.confirmation)?))
            }
            Kind::Refusal(refusal) => Reply::Refused(Refused {
                code: filled("reply.code", refusal.code, CODE_BYTES_MAX)?,
                text: text("reply.text", refusal.text, TEXT_BYTES_MAX)?,
            }),
            Kind::Element(value) => Reply::Element(bytes("reply.element", value)?),
            Kind::Share(value) => Reply::Share(bytes("reply.share", value)?),
            Kind::View(view) => Reply::View {
                code_open: view.code_open,
            },
        })
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use wire::reply::Kind;
        let kind = match self {
            Reply::Accepted(confirmation) => Kind::Accepted(wire::Accepted {
                confirmation: confirmation.map_or_else(Vec::new, |value| value.to_vec()),
            }),
            Reply::Refused(refused) => Kind::Refusal(wire::Refusal {
                code: clip(&refused.code, CODE_BYTES_MAX),
                text: clip(&refused.text, TEXT_BYTES_MAX),
            }),
            Reply::Element(value) => Kind::Element(value.to_vec()),
            Reply::Share(value) => Kind::Share(value.to_vec()),
            Reply::View { code_open } => Kind::View(wire::View {
                code_open: *code_open,
            }),
        };
        wire::Reply { kind: Some(kind) }.encode_to_vec()
    }
}

impl Proof {
    /// Reads a message that came.
    ///
    /// # Errors
    /// The first field that says what none may say.
    pub fn decode(message: &[u8]) -> Result<Self, ControlMessageError> {
        use wire::proof::Kind;
        let proof: wire::Proof = parsed("proof", message)?;
        Ok(match some(proof.kind)? {
            Kind::Confirmation(value) => Proof::Confirmation(bytes("proof.confirmation", value)?),
            Kind::Share(value) => Proof::Share(bytes("proof.share", value)?),
        })
    }

    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use wire::proof::Kind;
        let kind = match self {
            Proof::Confirmation(value) => Kind::Confirmation(value.to_vec()),
            Proof::Share(value) => Kind::Share(value.to_vec()),
        };
        wire::Proof { kind: Some(kind) }.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(claim: Claim) -> Opening {
        let name = if claim == Claim::Look { "" } else { "attic" };
        Opening {
            name: name.into(),
            claim,
        }
    }

    #[test]
    fn openings_survive_the_wire() {
        for claim in [
            Claim::Secret([1; SECRET_BYTES]),
            Claim::Element([2; ELEMENT_BYTES]),
            Claim::Commitment([3; PROOF_BYTES]),
            Claim::Look,
        ] {
            let opening = opening(claim);
            assert_eq!(Opening::decode(&opening.encode()).unwrap(), opening);
        }
    }

    #[test]
    fn replies_and_proofs_survive_the_wire() {
        let refused = Refused {
            code: "invite_used".into(),
            text: "ask for a new one".into(),
        };
        for reply in [
            Reply::Accepted(None),
            Reply::Accepted(Some([4; PROOF_BYTES])),
            Reply::Refused(refused),
            Reply::Element([5; ELEMENT_BYTES]),
            Reply::Share([6; PROOF_BYTES]),
            Reply::View { code_open: true },
            Reply::View { code_open: false },
        ] {
            assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
        }
        for proof in [
            Proof::Confirmation([7; PROOF_BYTES]),
            Proof::Share([8; PROOF_BYTES]),
        ] {
            assert_eq!(Proof::decode(&proof.encode()).unwrap(), proof);
        }
    }

    #[test]
    fn the_bytes_of_an_opening_stay_what_they_are() {
        let bytes = opening(Claim::Secret([9; SECRET_BYTES])).encode();
        let mut expected = vec![0x08, 2, 0x12, 5];
        expected.extend(b"attic");
        expected.extend([0x1a, 16]);
        expected.extend([9; 16]);
        assert_eq!(bytes, expected);
        assert_eq!(opening(Claim::Look).encode(), [0x08, 2, 0x32, 0]);
    }

    #[test]
    fn an_opening_out_of_bounds_is_refused_by_field() {
        let message = |protocol, name: &str, claim| wire::Opening {
            protocol,
            name: name.into(),
            claim,
        };
        use wire::opening::Claim as Wire;
        let long = "x".repeat(65);
        let look = || Some(Wire::Look(wire::Look {}));
        for (field, broken) in [
            ("opening.protocol", message(1, "a", look())),
            ("kind", message(2, "a", None)),
            (
                "opening.secret",
                message(2, "a", Some(Wire::Secret(vec![1; 15]))),
            ),
            (
                "opening.element",
                message(2, "a", Some(Wire::Element(vec![1; 34]))),
            ),
            (
                "opening.commitment",
                message(2, "a", Some(Wire::Commitment(Vec::new()))),
            ),
            (
                "opening.name",
                message(2, "", Some(Wire::Secret(vec![1; 16]))),
            ),
            (
                "opening.name",
                message(2, "a\u{7}", Some(Wire::Secret(vec![1; 16]))),
            ),
            (
                "opening.name",
                message(2, &long, Some(Wire::Secret(vec![1; 16]))),
            ),
            ("opening.name", message(2, "a", look())),
        ] {
            let error = Opening::decode(&broken.encode_to_vec()).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        assert_eq!(Opening::decode(&[0xff; 9]).unwrap_err().field, "opening");
    }

    #[test]
    fn no_answer_is_no_yes() {
        assert_eq!(Reply::decode(&[]).unwrap_err().field, "kind");
        assert_eq!(Proof::decode(&[]).unwrap_err().field, "kind");
        let half = wire::Reply {
            kind: Some(wire::reply::Kind::Accepted(wire::Accepted {
                confirmation: vec![1; 31],
            })),
        };
        let error = Reply::decode(&half.encode_to_vec()).unwrap_err();
        assert_eq!(error.field, "reply.confirmation");
    }

    #[test]
    fn what_proves_something_is_masked() {
        let secret = format!("{:?}", opening(Claim::Secret([0xab; SECRET_BYTES])));
        let proof = format!("{:?}", Proof::Confirmation([0xab; PROOF_BYTES]));
        for text in [secret, proof] {
            assert!(text.contains("masked") && !text.contains("171"), "{text}");
        }
    }
}
