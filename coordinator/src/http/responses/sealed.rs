//! Reasoning as clients carry it from request to request without looking: `encrypted_content`.
//!
//! Clients that store nothing with us (Codex) give reasoning back in this form alone. It holds what the client may read
//! anyway in `content`, so it is packed, not secret.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Tells ours from what other services sealed.
const MARK: &str = "hearth1.";

/// Packs a text.
pub(super) fn seal(text: &str) -> String {
    format!("{MARK}{}", STANDARD.encode(text))
}

/// The text, if we packed it.
pub(super) fn open(sealed: &str) -> Option<String> {
    let bytes = STANDARD.decode(sealed.strip_prefix(MARK)?).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_packed_is_read() {
        for text in ["", "why \u{e9}\n"] {
            assert_eq!(open(&seal(text)).as_deref(), Some(text));
        }
        for other in ["", "gAAAA==", "hearth1.?", "hearth1./w==", "hearth2.YQ=="] {
            assert_eq!(open(other), None, "{other}");
        }
    }
}
