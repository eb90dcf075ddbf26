//! Text on stdout. A reader that has seen enough (`| head`) is no failure.

use std::io::{ErrorKind, Write as _};

use command::Outcome;

/// Prints a text that ends with its own line feed.
///
/// # Errors
/// The text cannot be written, and not because nobody reads on.
pub(crate) fn show(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
