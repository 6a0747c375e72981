//! Shows the progress of a long step: a bar on a terminal, otherwise a line from time to time.

use std::io::Write;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How often a step reports without a terminal.
const PLAIN_PERIOD: Duration = Duration::from_secs(30);

/// Several steps may run at a time: each has its own line.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Writes a line for people to standard output, above all bars.
pub(crate) fn say(line: &str) {
    // If nobody reads the output, the exit status still has the result.
    BARS.suspend(|| {
        let _ = writeln!(std::io::stdout(), "{line}");
    });
}

/// The same to standard error.
fn tell(line: &str) {
    BARS.suspend(|| {
        let _ = writeln!(std::io::stderr(), "{line}");
    });
}

/// One long step.
#[derive(Debug)]
pub(crate) struct Progress {
    title: String,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    done: u64,
    started: Instant,
    reported: Instant,
}

impl Progress {
    /// Starts a step of `total` units of work, if that number is known.
    pub(crate) fn start(title: &str, total: Option<u64>) -> Self {
        let bar = (!BARS.is_hidden()).then(|| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::new_spinner(),
            };
            let bar = BARS.add(bar);
            let style = match total {
                Some(_) => "{msg:32} [{bar:30}] {percent:>3} %  {elapsed}",
                None => "{msg:32} {spinner} {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
            bar.set_message(title.to_owned());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        if bar.is_none() {
            tell(&format!("{title} ..."));
        }
        let started = Instant::now();
        Self {
            title: title.to_owned(),
            bar,
            total,
            done: 0,
            started,
            reported: started,
        }
    }

    /// Sets the number of units of work, now that it is known.
    pub(crate) fn expect(&mut self, total: u64) {
        self.total = Some(total);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
    }

    /// One unit of work is done. If there are more than expected, the step is shown as almost
    /// finished.
    pub(crate) fn step(&mut self) {
        self.done += 1;
        let shown = self.shown();
        match &self.bar {
            Some(bar) => bar.set_position(shown),
            None if self.reported.elapsed() >= PLAIN_PERIOD => {
                self.reported = Instant::now();
                let part = match self.total {
                    Some(total) => format!("{} %, ", shown * 100 / total.max(1)),
                    None => String::new(),
                };
                let took = human(self.started.elapsed());
                tell(&format!("{} ... {part}{took}", self.title));
            }
            None => {}
        }
    }

    /// The number of units to show as done.
    fn shown(&self) -> u64 {
        self.total
            .map_or(self.done, |total| self.done.min(total * 99 / 100))
    }

    pub(crate) fn done(self) -> u64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let took = human(self.started.elapsed());
        tell(&format!("{:32} {took}", self.title));
        self.done
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Formats a duration for a person.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_turns_out_to_be_less_work_is_shown_as_more_of_it() {
        let mut progress = Progress::start("x", Some(1000));
        progress.step();
        assert_eq!(progress.shown(), 1);
        progress.expect(2);
        assert_eq!(progress.shown(), 1);
        (0..5).for_each(|_| progress.step());
        assert!(progress.shown() < 2, "It is done when it says so");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(human(Duration::from_millis(2340)), "2.3 s");
        assert_eq!(human(Duration::from_secs(42)), "42 s");
        assert_eq!(human(Duration::from_secs(754)), "12 min 34 s");
    }
}
