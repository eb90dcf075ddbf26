//! The progress bar on stderr: done, speed, and when it will be there. Shown on terminals alone.

use indicatif::{ProgressBar, ProgressStyle};

use crate::Progress;

/// One bar for all files of a model.
pub struct Bars {
    bar: ProgressBar,
}

impl Bars {
    /// A bar that appears with the first file.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::hidden();
        let style = ProgressStyle::with_template(
            "{msg}  [{bar:28}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        );
        // The template is our own text; the default bar would do as well.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar }
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Progress for Bars {
    fn begin(&mut self, file: &str, have: u64, bytes: u64) {
        self.bar
            .set_draw_target(indicatif::ProgressDrawTarget::stderr());
        self.bar.reset();
        self.bar.set_length(bytes);
        // What was here before says nothing about the speed.
        self.bar.set_position(have);
        self.bar.reset_eta();
        self.bar.set_message(file.to_owned());
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn retry(&mut self, why: &str) {
        self.say(&format!("{why}; trying again"));
    }

    fn restart(&mut self, _have: u64) {
        self.bar.set_position(0);
        self.bar.reset_eta();
    }
}
