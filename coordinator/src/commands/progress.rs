//! Telling the owner how far the service has come, on stderr: a bar on a terminal while nodes load, and, for commands
//! whose log is quiet, a line per change.

use std::io::IsTerminal as _;

use coordinator::gateway::{Phase, ServiceStatus};
use indicatif::{ProgressBar, ProgressStyle};
use plan::size::size_text;

/// Who tells about changes of phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// The log does.
    Log,
    /// We do.
    Ours,
}

/// Shows statuses one after the other.
pub(crate) struct Progress {
    lines: Lines,
    bar: Option<ProgressBar>,
    last: Option<(Phase, String)>,
}

impl Progress {
    /// For the process's stderr.
    pub(crate) fn new(lines: Lines) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} [{wide_bar}] {bytes}/{total_bytes}");
            let bar = ProgressBar::new(0);
            match style {
                Ok(style) => bar.with_style(style),
                Err(_) => bar,
            }
        });
        Self {
            lines,
            bar,
            last: None,
        }
    }

    /// Shows one status. What was shown already is not repeated.
    pub(crate) fn show(&mut self, status: &ServiceStatus) {
        if let Some(bar) = &self.bar {
            if status.phase == Phase::Loading {
                if bar.is_finished() {
                    bar.reset();
                }
                bar.set_length(status.total_bytes);
                bar.set_position(status.done_bytes);
                bar.set_message(status.phase.name());
                return;
            }
            bar.finish_and_clear();
        }
        if self.lines == Lines::Log {
            return;
        }
        let line = line(status);
        let key = (status.phase, line.clone());
        if self.last.as_ref() != Some(&key) {
            match &self.bar {
                Some(bar) => bar.suspend(|| eprintln!("{line}")),
                None => eprintln!("{line}"),
            }
            self.last = Some(key);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One line per status; while loading the bytes done are left out, so that the line does not change with each of them.
fn line(status: &ServiceStatus) -> String {
    match status.phase {
        Phase::Loading => format!(
            "loading: {} on {} nodes",
            size_text(status.total_bytes),
            status.nodes
        ),
        Phase::Ready => "ready".to_owned(),
        Phase::WaitingForNodes if status.missing_bytes > 0 => format!(
            "{}: {} missing; {}",
            status.phase.name(),
            size_text(status.missing_bytes),
            status.detail
        ),
        phase => format!("{}: {}", phase.name(), status.detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_changes_only_with_what_matters() {
        let mut status = ServiceStatus::starting();
        assert_eq!(line(&status), "waiting_for_nodes: the service is starting");
        status.missing_bytes = 1024;
        assert!(line(&status).contains("1.00 KiB missing"));
        status.phase = Phase::Loading;
        status.total_bytes = 2048;
        let before = line(&status);
        status.done_bytes = 1024;
        assert_eq!(line(&status), before);
    }
}
