//! Invites: a one-time secret, the coordinator's key, and where it listens.
//!
//! The text form is `hearth://PEERID/SECRET/IP:PORT,IP:PORT/CHECK`. It has no character that a shell would
//! interpret, and the check tells a mistyped invite from one of another household. Must never put the secret
//! into a log.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use libp2p_identity::PeerId;
use proto::NodeId;
use proto::control::pairing::SECRET_BYTES;
use proto::limits;
use rand::RngCore;
use subtle::ConstantTimeEq;
use thiserror::Error;

const SCHEME: &str = "hearth://";
const SECRET_DIGITS: usize = 26;
const CHECK_BYTES: usize = 5;
const CHECK_DIGITS: usize = 8;
/// Characters of an invite's text form.
const TEXT_MAX: usize = 1024;

/// Base 32 of RFC 4648 in lower case, without padding; strict in its last bits.
fn base32() -> Encoding {
    let mut specification = Specification::new();
    specification
        .symbols
        .push_str("abcdefghijklmnopqrstuvwxyz234567");
    // The specification is a constant that is valid; were it not, the plain encoding is as good.
    specification
        .encoding()
        .unwrap_or(data_encoding::BASE32_NOPAD)
}

/// 128 random bits, shown to nobody.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// A new one from the system's random source.
    #[must_use]
    pub fn generate() -> Self {
        let mut bytes = [0; SECRET_BYTES];
        rand::rng().fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// Compares in constant time.
    #[must_use]
    pub fn same(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// What may be stored to recognise the secret later: a hash from which it cannot be found.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        blake3::derive_key("hearth 2025 invite secret fingerprint", &self.0)
    }

    pub(crate) fn from_bytes(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> [u8; SECRET_BYTES] {
        self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(masked)")
    }
}

/// A right to join.
#[derive(Debug, Clone)]
pub struct Invite {
    /// Known to the coordinator and to whoever was shown the invite.
    pub secret: Secret,
    /// Whose household.
    pub coordinator: NodeId,
    /// Where the coordinator listens; at least one, at most [`limits::ADDRESSES_MAX`].
    pub addresses: Vec<SocketAddr>,
}

/// A text that is no invite.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InviteError {
    /// Something else.
    #[error(
        "this is not an invite: expected hearth://KEY/SECRET/ADDRESS/CHECK as `coordinator invite` prints it"
    )]
    NotAnInvite,
    /// A part is missing.
    #[error("the invite is cut short: copy the whole line that `coordinator invite` printed")]
    CutShort,
    /// Too long to be one.
    #[error("the invite is {got} characters long, at most {TEXT_MAX} are possible")]
    TooLong {
        /// What came.
        got: usize,
    },
    /// The check does not fit the rest.
    #[error(
        "the invite was altered or mistyped (its check does not fit): copy it again from `coordinator invite`"
    )]
    Altered,
    /// The check fits, but a part is not what it must be.
    #[error("the invite's {part} is not {expected}: ask for a new invite")]
    Part {
        /// Which part.
        part: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

impl Invite {
    /// An invite with addresses that can be dialled.
    ///
    /// # Errors
    /// When there is no address, too many, or one without address or port.
    pub fn new(
        secret: Secret,
        coordinator: NodeId,
        addresses: Vec<SocketAddr>,
    ) -> Result<Self, InviteError> {
        let part = |part, expected| InviteError::Part { part, expected };
        if coordinator.as_str().parse::<PeerId>().is_err() {
            return Err(part("key", "the key of a coordinator"));
        }
        if !(1..=limits::ADDRESSES_MAX).contains(&addresses.len()) {
            return Err(part("address list", "1 to 16 addresses long"));
        }
        if addresses
            .iter()
            .any(|address| address.ip().is_unspecified() || address.port() == 0)
        {
            return Err(part("address", "an IP:PORT that can be dialled"));
        }
        Ok(Self {
            secret,
            coordinator,
            addresses,
        })
    }
}

fn check_of(text: &str) -> String {
    let hash = blake3::derive_key("hearth 2025 invite check", text.as_bytes());
    let (head, _) = hash.split_at(CHECK_BYTES);
    base32().encode(head)
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let text = format!(
            "{SCHEME}{}/{}/{}/",
            self.coordinator,
            base32().encode(&self.secret.0),
            addresses.join(",")
        );
        write!(f, "{text}{}", check_of(&text))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        if text.len() > TEXT_MAX {
            return Err(InviteError::TooLong { got: text.len() });
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| {
            if SCHEME.starts_with(text) && !text.is_empty() {
                InviteError::CutShort
            } else {
                InviteError::NotAnInvite
            }
        })?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [key, secret, addresses, check] = parts.as_slice() else {
            return Err(if parts.len() < 4 {
                InviteError::CutShort
            } else {
                InviteError::Altered
            });
        };
        if check.len() < CHECK_DIGITS {
            return Err(InviteError::CutShort);
        }
        let covered = text.strip_suffix(check).unwrap_or(text);
        if check_of(covered) != *check {
            return Err(InviteError::Altered);
        }
        let part = |part, expected| InviteError::Part { part, expected };
        let coordinator = NodeId::new(*key).map_err(|_| part("key", "the key of a coordinator"))?;
        let secret: [u8; SECRET_BYTES] = (secret.len() == SECRET_DIGITS)
            .then(|| base32().decode(secret.as_bytes()).ok())
            .flatten()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| part("secret", "26 letters and digits of base 32"))?;
        let addresses = addresses
            .split(',')
            .take(limits::ADDRESSES_MAX + 1)
            .map(str::parse)
            .collect::<Result<Vec<SocketAddr>, _>>()
            .map_err(|_| part("address", "an IP:PORT that can be dialled"))?;
        Invite::new(Secret(secret), coordinator, addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    fn invite() -> Invite {
        let addresses = vec![
            "192.168.1.20:7411".parse().unwrap(),
            "[fd00::1]:7411".parse().unwrap(),
        ];
        let coordinator = Identity::generate().node_id().clone();
        Invite::new(Secret::generate(), coordinator, addresses).unwrap()
    }

    /// A text with the right check, whatever it says.
    fn signed(body: &str) -> String {
        format!("{body}{}", check_of(body))
    }

    #[test]
    fn an_invite_survives_its_text_form() {
        let invite = invite();
        let text = invite.to_string();
        let back: Invite = format!("  {text}\n").parse().unwrap();
        assert!(back.secret.same(&invite.secret));
        assert_eq!(back.coordinator, invite.coordinator);
        assert_eq!(back.addresses, invite.addresses);
        assert!(
            !text.contains(['&', '?', ' ', '\'', '"', '$', ';']),
            "{text}"
        );
    }

    #[test]
    fn every_altered_character_is_noticed() {
        let text = invite().to_string();
        for at in SCHEME.len()..text.len() {
            for other in ["b", "9", "/", "Z", ""] {
                let mut altered = text.clone();
                altered.replace_range(at..=at, other);
                if altered != text {
                    let error = altered.parse::<Invite>().unwrap_err();
                    assert!(
                        matches!(error, InviteError::Altered | InviteError::CutShort),
                        "{altered}: {error}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_truncation_is_told_as_such() {
        let text = invite().to_string();
        for end in 1..text.len() {
            let error = text[..end].parse::<Invite>().unwrap_err();
            assert_eq!(error, InviteError::CutShort, "{}", &text[..end]);
        }
    }

    #[test]
    fn what_is_no_invite_is_refused() {
        let key = Identity::generate().node_id().to_string();
        let secret = base32().encode(&[7; SECRET_BYTES]);
        let at = "10.0.0.1:7411";
        let long = vec![at; limits::ADDRESSES_MAX + 1].join(",");
        let not_strict = format!("{}b", &secret[..25]);
        for (text, expected) in [
            (String::new(), "not an invite"),
            ("384-219".into(), "not an invite"),
            (
                format!("https://{key}/{secret}/{at}/abcdefgh"),
                "not an invite",
            ),
            (format!("{SCHEME}{key}/{secret}/{at}/abcdefgh"), "altered"),
            (format!("{SCHEME}{key}/{secret}/{at}/x/abcdefgh"), "altered"),
            ("h".repeat(TEXT_MAX + 1), "long"),
            (signed(&format!("{SCHEME}nokey/{secret}/{at}/")), "key"),
            (signed(&format!("{SCHEME}{key}/abc/{at}/")), "secret"),
            (
                signed(&format!("{SCHEME}{key}/{}/{at}/", secret.to_uppercase())),
                "secret",
            ),
            (
                signed(&format!("{SCHEME}{key}/{not_strict}/{at}/")),
                "secret",
            ),
            (signed(&format!("{SCHEME}{key}/{secret}//")), "address"),
            (
                signed(&format!("{SCHEME}{key}/{secret}/host:1/")),
                "address",
            ),
            (
                signed(&format!("{SCHEME}{key}/{secret}/0.0.0.0:7411/")),
                "address",
            ),
            (
                signed(&format!("{SCHEME}{key}/{secret}/10.0.0.1:0/")),
                "address",
            ),
            (
                signed(&format!("{SCHEME}{key}/{secret}/{long}/")),
                "address",
            ),
        ] {
            let error = text.parse::<Invite>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_compared_hashed_and_never_shown() {
        let secret = Secret::from_bytes([0xab; SECRET_BYTES]);
        let mut other = [0xab; SECRET_BYTES];
        assert!(secret.same(&Secret::from_bytes(other)));
        other[15] ^= 1;
        assert!(!secret.same(&Secret::from_bytes(other)));
        assert_ne!(
            secret.fingerprint(),
            Secret::from_bytes(other).fingerprint()
        );
        assert_eq!(format!("{secret:?}"), "Secret(masked)");
        assert!(!format!("{:?}", invite()).contains(&base32().encode(&secret.bytes())));
        assert!(!Secret::generate().same(&Secret::generate()));
    }
}
