//! What a run spent its time on, for the table at its end.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::progress::human;

/// Set by .ci/run to count the time until the lab itself runs: seconds since
/// 1970.
const BEGAN: &str = "FDBOX_LAB_BEGAN";

/// A stage of the run. Some of them overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    pub name: String,
    /// Since the run began.
    pub begins: Duration,
    pub took: Duration,
}

/// The stages of one run, recorded by the code that performs them.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    began: Instant,
    noted: Arc<Mutex<Vec<Stage>>>,
}

impl Stages {
    /// A run that begins now, or that began when cargo did.
    pub(crate) fn begin() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let before = std::env::var(BEGAN)
            .ok()
            .and_then(|text| before(&text, now));
        Self::since(before)
    }

    /// A run that began `before` ago, with cargo's build of the lab; or now.
    fn since(before: Option<Duration>) -> Self {
        let began = before.and_then(|before| Instant::now().checked_sub(before));
        let stages = Self {
            began: began.unwrap_or_else(Instant::now),
            noted: Arc::default(),
        };
        if began.is_some() {
            stages.note("cargo builds the lab", stages.began);
        }
        stages
    }

    /// A run that begins now, independently of the environment of the tests.
    #[cfg(test)]
    pub(crate) fn now() -> Self {
        Self::since(None)
    }

    /// Records that something that began at `started` is done.
    pub(crate) fn note(&self, name: &str, started: Instant) {
        let stage = Stage {
            name: name.to_owned(),
            begins: started.saturating_duration_since(self.began),
            took: started.elapsed(),
        };
        self.lock().push(stage);
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// In the order in which they began. Stages with the same name are added up.
    pub(crate) fn list(&self) -> Vec<Stage> {
        merged(self.lock().clone())
    }

    /// The lines of the table.
    pub(crate) fn table(&self) -> Vec<String> {
        let row = |name: &str, begins: &str, took: &str| {
            format!("{name:44} {begins:>12} {took:>12}")
                .trim_end()
                .to_owned()
        };
        let mut lines = vec![row("stage", "begins after", "takes")];
        for stage in self.list() {
            lines.push(row(&stage.name, &human(stage.begins), &human(stage.took)));
        }
        lines.push(row("all of it", "", &human(self.elapsed())));
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.noted.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// How long the run has lasted, if it began at `began`. A day or more, or a time in the future,
/// means that the value is old or wrong.
fn before(began: &str, now: Duration) -> Option<Duration> {
    let began = Duration::from_secs(began.trim().parse().ok()?);
    let before = now.checked_sub(began)?;
    (before < Duration::from_secs(24 * 60 * 60)).then_some(before)
}

fn merged(mut noted: Vec<Stage>) -> Vec<Stage> {
    noted.sort_by_key(|stage| stage.begins);
    let mut list: Vec<Stage> = Vec::new();
    for stage in noted {
        match list.iter_mut().find(|other| other.name == stage.name) {
            Some(same) => same.took += stage.took,
            None => list.push(stage),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(name: &str, begins: u64, took: u64) -> Stage {
        Stage {
            name: name.into(),
            begins: Duration::from_secs(begins),
            took: Duration::from_secs(took),
        }
    }

    #[test]
    fn stages_come_in_their_order_and_once() {
        let noted = vec![stage("b", 9, 1), stage("a", 2, 3), stage("b", 4, 2)];
        assert_eq!(merged(noted), [stage("a", 2, 3), stage("b", 4, 3)]);
    }

    #[test]
    fn only_a_recent_beginning_counts() {
        let now = Duration::from_secs(1_000_000);
        assert_eq!(before("999990\n", now), Some(Duration::from_secs(10)));
        for wrong in ["", "x", "1000001", "900000"] {
            assert_eq!(before(wrong, now), None, "{wrong}");
        }
    }

    #[test]
    fn the_table_has_every_stage_and_the_sum() {
        let stages = Stages::begin();
        stages.note("kernel-stock", Instant::now());
        let table = stages.table();
        assert!(
            table[1..]
                .iter()
                .any(|line| line.starts_with("kernel-stock "))
        );
        assert!(table.last().unwrap().starts_with("all of it"));
    }
}
