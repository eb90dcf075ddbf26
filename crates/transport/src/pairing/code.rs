//! Short codes: six digits that prove themselves without being shown, and the key exchange (SPAKE2) that does it.
//!
//! Owns the exchange of both sides, without a socket. Must never let a side learn more than whether one guess was right:
//! the device confirms first, so a stranger who breaks off before that has learnt nothing, and one who confirms wrongly
//! has spent the code. Everything is bound to both keys, to the roles and to the TLS channel, so that what was heard on
//! one connection is worth nothing on another.

use std::fmt;
use std::str::FromStr;

use proto::NodeId;
use proto::control::pairing::{ELEMENT_BYTES, PROOF_BYTES};
use rand::Rng;
use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// Digits of a code.
const DIGITS: usize = 6;
/// How many codes there are.
const CODES: u32 = 1_000_000;

/// One half of the exchange as it travels.
pub(crate) type Element = [u8; ELEMENT_BYTES];
/// What proves that a side knows the code.
pub(crate) type Confirmation = [u8; PROOF_BYTES];

/// Six secret digits.
#[derive(Clone, PartialEq, Eq)]
pub struct ShortCode(u32);

impl ShortCode {
    /// A new one from the system's random source.
    #[must_use]
    pub fn generate() -> Self {
        Self(rand::rng().random_range(0..CODES))
    }

    /// The text to show on the owner's screen and nowhere else, `384-219` for example.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{:03}-{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl fmt::Debug for ShortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ShortCode(masked)")
    }
}

/// A text that is no short code. It is not repeated: it may be one that was mistyped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this is no short code: six digits were expected, such as 384-219")]
pub struct ShortCodeError;

impl FromStr for ShortCode {
    type Err = ShortCodeError;

    /// Takes the digits with a dash, a space or nothing in the middle.
    fn from_str(text: &str) -> Result<Self, ShortCodeError> {
        let text = text.trim();
        let (first, last) = text.split_at_checked(DIGITS / 2).ok_or(ShortCodeError)?;
        let last = last.strip_prefix(['-', ' ']).unwrap_or(last);
        let digits = |part: &str| {
            let fits = part.len() == DIGITS / 2 && part.bytes().all(|b| b.is_ascii_digit());
            fits.then(|| part.parse::<u32>().ok()).flatten()
        };
        match (digits(first), digits(last)) {
            (Some(first), Some(last)) => Ok(Self(first * 1000 + last)),
            _ => Err(ShortCodeError),
        }
    }
}

/// The connection that an exchange belongs to: both keys, and what only its two ends can know.
#[derive(Clone)]
pub(crate) struct Binding {
    pub node: NodeId,
    pub coordinator: NodeId,
    pub exporter: [u8; 32],
    /// What the device calls itself, so that nobody changes it on the way.
    pub name: String,
}

impl Binding {
    /// Everything that the two sides agree on, each part with its length.
    fn bytes(&self) -> Vec<u8> {
        let parts = [
            self.node.as_str().as_bytes(),
            self.coordinator.as_str().as_bytes(),
            &self.exporter,
            self.name.as_bytes(),
        ];
        let mut bytes = Vec::new();
        for part in parts {
            // A usize has at most 64 bits.
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        bytes
    }

    fn identities(&self) -> (Identity, Identity) {
        let role = |role: &str, id: &NodeId| Identity::new(format!("{role} {id}").as_bytes());
        (
            role("hearth node", &self.node),
            role("hearth coordinator", &self.coordinator),
        )
    }

    /// The hash from which check words come, given a share of each side.
    pub(crate) fn check(&self, of_node: &[u8; 32], of_coordinator: &[u8; 32]) -> [u8; 32] {
        let mut bytes = self.bytes();
        bytes.extend(of_node);
        bytes.extend(of_coordinator);
        blake3::derive_key("hearth 2026 check words of a request", &bytes)
    }
}

/// What a device commits to before it knows the coordinator's share.
pub(crate) fn commitment(share: &[u8; 32]) -> [u8; PROOF_BYTES] {
    blake3::derive_key("hearth 2026 commitment to a share", share)
}

/// The other side's half is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the other side's half of the key exchange is not a possible one")]
pub(crate) struct NoElement;

/// What each side will have to show.
struct Confirmations {
    of_node: Confirmation,
    of_coordinator: Confirmation,
}

impl Confirmations {
    fn new(key: &[u8], binding: &Binding, node: &Element, coordinator: &Element) -> Self {
        let mut bytes = binding.bytes();
        bytes.extend(node);
        bytes.extend(coordinator);
        bytes.extend(key);
        Self {
            of_node: blake3::derive_key("hearth 2026 short code, proof of the node", &bytes),
            of_coordinator: blake3::derive_key(
                "hearth 2026 short code, proof of the coordinator",
                &bytes,
            ),
        }
    }
}

fn password(code: &ShortCode) -> Password {
    Password::new(code.reveal().as_bytes())
}

/// The group writes its side and a point, always as long.
fn element(bytes: Vec<u8>) -> Result<Element, NoElement> {
    bytes.try_into().map_err(|_| NoElement)
}

/// The device's side before it has heard anything.
pub(crate) struct Guest {
    state: Spake2<Ed25519Group>,
    binding: Binding,
    element: Element,
}

/// The device's side once it has confirmed.
pub(crate) struct GuestWaiting {
    expected: Confirmation,
}

impl Guest {
    pub(crate) fn start(code: &ShortCode, binding: Binding) -> Result<Self, NoElement> {
        let (of_node, of_coordinator) = binding.identities();
        let (state, bytes) = Spake2::start_a(&password(code), &of_node, &of_coordinator);
        Ok(Self {
            state,
            binding,
            element: element(bytes)?,
        })
    }

    pub(crate) fn element(&self) -> Element {
        self.element
    }

    /// The proof to send, given the coordinator's half.
    pub(crate) fn confirm(
        self,
        coordinator: &Element,
    ) -> Result<(Confirmation, GuestWaiting), NoElement> {
        let key = self.state.finish(coordinator).map_err(|_| NoElement)?;
        let both = Confirmations::new(&key, &self.binding, &self.element, coordinator);
        let waiting = GuestWaiting {
            expected: both.of_coordinator,
        };
        Ok((both.of_node, waiting))
    }
}

impl GuestWaiting {
    /// Whether the coordinator has proven that it knows the code.
    pub(crate) fn is_proven(&self, confirmation: &Confirmation) -> bool {
        self.expected.ct_eq(confirmation).into()
    }
}

/// The coordinator's side, waiting for the device's proof.
pub(crate) struct Host {
    both: Confirmations,
}

impl Host {
    /// The coordinator's side and its half, given the device's.
    pub(crate) fn answer(
        code: &ShortCode,
        binding: &Binding,
        node: &Element,
    ) -> Result<(Self, Element), NoElement> {
        let (of_node, of_coordinator) = binding.identities();
        let (state, bytes) =
            Spake2::<Ed25519Group>::start_b(&password(code), &of_node, &of_coordinator);
        let own = element(bytes)?;
        let key = state.finish(node).map_err(|_| NoElement)?;
        let both = Confirmations::new(&key, binding, node, &own);
        Ok((Self { both }, own))
    }

    /// The coordinator's own proof, if the device's is right; otherwise the device has guessed wrongly.
    pub(crate) fn check(&self, confirmation: &Confirmation) -> Option<Confirmation> {
        let right: bool = self.both.of_node.ct_eq(confirmation).into();
        right.then_some(self.both.of_coordinator)
    }
}

#[cfg(test)]
mod tests;
