//! The bar on standard error while a run lasts, where that is a terminal. Elsewhere nothing is written.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

#[derive(Debug)]
pub(super) struct Progress(Option<ProgressBar>);

impl Progress {
    /// `length` is what [`Self::set`] counts to.
    pub(super) fn new(what: &'static str, length: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        // The template is a constant; without it the bar has the library's own look.
        if let Ok(style) = ProgressStyle::with_template("{prefix:12} [{bar:20}] {percent:>3}%  {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what);
        Self(Some(bar))
    }

    pub(super) fn set(&self, position: u64, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.0 {
            bar.set_message(message());
            bar.set_position(position);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
