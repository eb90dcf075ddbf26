//! The owner's word before anything is fetched.

use std::io::{BufRead, IsTerminal, Write};

use plan::size::size_text;

use crate::HubError;
use crate::pull::Plan;

/// Files that are shown one by one.
const SHOWN_MAX: usize = 12;

/// What the command line says already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `--yes`
    Yes,
    /// Nothing: ask.
    Ask,
}

/// Shows on stderr what would be fetched from where, and asks on a terminal.
///
/// # Errors
/// The owner says no, or there is nobody to ask and the answer is not given.
pub fn ask(plan: &Plan, answer: Answer) -> Result<(), HubError> {
    let mut err = std::io::stderr().lock();
    // A closed stderr cannot be asked on; the answer decides then.
    let _ = write!(err, "{}", text(plan));
    if answer == Answer::Yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !err.is_terminal() {
        return Err(HubError::Consent(
            "nobody agreed to the download, and there is no terminal to ask on; say --yes to agree",
        ));
    }
    let _ = write!(err, "Fetch it? [y/N] ");
    let _ = err.flush();
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    if read.is_ok() && matches!(line.trim(), "y" | "Y" | "yes" | "Yes") {
        return Ok(());
    }
    Err(HubError::Consent("nothing was fetched"))
}

fn text(plan: &Plan) -> String {
    let manifest = &plan.manifest;
    let mut lines = vec![format!(
        "{} at {}\nfrom {} into {}",
        manifest.model,
        manifest.commit.get(..12).unwrap_or(&manifest.commit),
        manifest.host,
        plan.dir.display()
    )];
    for file in manifest.files.iter().take(SHOWN_MAX) {
        let note = if file.is_here(&plan.dir) {
            ", here already"
        } else {
            ""
        };
        lines.push(format!(
            "  {:>10}  {}{note}",
            size_text(file.bytes),
            file.path
        ));
    }
    if let Some(more) = manifest
        .files
        .len()
        .checked_sub(SHOWN_MAX)
        .filter(|n| *n > 0)
    {
        lines.push(format!("  and {more} more"));
    }
    lines.push(format!(
        "{} in {} files, of which {} ({} bytes) are to be fetched\n",
        size_text(manifest.bytes()),
        manifest.files.len(),
        size_text(plan.missing_bytes),
        plan.missing_bytes
    ));
    lines.join("\n")
}
