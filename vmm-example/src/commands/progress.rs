//! A status line on a terminal.

use std::cell::RefCell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use crate::error::printable;

const PACE: Duration = Duration::from_millis(250);

/// The line, on standard error; it disappears on drop. If standard error is not a terminal, nothing
/// is written.
#[derive(Debug)]
pub(super) struct Progress {
    target: fn() -> ProgressDrawTarget,
    line: RefCell<ProgressBar>,
}

impl Progress {
    pub(super) fn start() -> Self {
        Self::on(ProgressDrawTarget::stderr)
    }

    fn on(target: fn() -> ProgressDrawTarget) -> Self {
        Self {
            target,
            line: RefCell::new(ProgressBar::hidden()),
        }
    }

    /// Replaces the text. An empty text hides the line.
    pub(super) fn say(&self, what: &str) {
        let line = if what.is_empty() {
            ProgressBar::hidden()
        } else {
            let line = ProgressBar::with_draw_target(None, (self.target)())
                .with_finish(ProgressFinish::AndClear)
                .with_message(printable(what).into_owned());
            if let Ok(style) = ProgressStyle::with_template("{msg} ({elapsed})") {
                line.set_style(style);
            }
            line
        };
        self.line.replace(line.clone()).finish_and_clear();
        line.tick();
        line.enable_steady_tick(PACE);
    }

    /// Writes something else to the terminal, above the line.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.line.borrow().suspend(write)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.line.borrow().finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use indicatif::InMemoryTerm;

    use super::*;

    thread_local! {
        static SCREEN: OnceCell<InMemoryTerm> = const { OnceCell::new() };
    }

    /// Each test runs in its own thread, and so has its own terminal.
    fn screen() -> InMemoryTerm {
        SCREEN.with(|screen| screen.get_or_init(|| InMemoryTerm::new(24, 80)).clone())
    }

    fn target() -> ProgressDrawTarget {
        ProgressDrawTarget::term_like(Box::new(screen()))
    }

    #[test]
    fn the_line_says_what_goes_on_and_goes_in_the_end() {
        let progress = Progress::on(target);
        progress.say("seal");
        assert_eq!(screen().contents(), "seal (0s)");
        progress.say("pause");
        assert_eq!(screen().contents(), "pause (0s)");
        drop(progress);
        assert_eq!(screen().contents(), "");
    }

    #[test]
    fn nothing_is_written_if_nothing_was_shown() {
        let progress = Progress::on(target);
        progress.say("seal");
        progress.say("");
        assert_eq!(screen().contents(), "");
        screen().reset();
        progress.suspend(|| ());
        drop(progress);
        assert_eq!(screen().moves_since_last_check(), "");
    }

    #[test]
    fn other_lines_come_where_the_line_was() {
        let progress = Progress::on(target);
        progress.say("seal");
        let seen = progress.suspend(|| screen().contents());
        assert_eq!(seen, "");
        assert_eq!(screen().contents(), "seal (0s)");
    }
}
