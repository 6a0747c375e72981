//! The verdicts as a page, for people.

use std::time::Duration;

use super::Suite;
use crate::page::chart::{self, Span};
use crate::page::{Card, Page, time};
use crate::stages::Stage;
use crate::verdict::Outcome;

/// The number of tests in the chart of the slowest.
const SLOWEST: usize = 15;

/// The whole page. `coverage` says which part of the suite ran, if not all of it.
pub(super) fn page(suite: &Suite<'_>, coverage: Option<&str>) -> String {
    let stages = suite.lab.cache.stages();
    written(&suite.outcomes, &stages.list(), stages.elapsed(), coverage)
}

fn written(
    outcomes: &[Outcome],
    stages: &[Stage],
    elapsed: Duration,
    coverage: Option<&str>,
) -> String {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|it| it.error.is_some()).collect();
    let mut page = Page::new("Test run");
    page.cards(&[
        Card::new((outcomes.len() - failed.len()).to_string(), "passed"),
        Card {
            is_bad: !failed.is_empty(),
            ..Card::new(failed.len().to_string(), "failed")
        },
        Card::new(crate::progress::human(elapsed), "in all"),
    ]);
    page.note(coverage.unwrap_or_default());
    for outcome in failed {
        page.heading(&format!("Failed: {}", outcome.name));
        page.text(outcome.error.as_deref().unwrap_or_default());
    }
    page.heading("Where the time went");
    let spans: Vec<Span> = stages.iter().map(span).collect();
    page.chart(&chart::spans(&spans));
    page.heading("The slowest tests");
    page.chart(&chart::bars(&slowest(outcomes)));
    page.heading("All tests");
    let rows: Vec<_> = outcomes.iter().map(row).collect();
    page.table(&["test", "verdict", "took"].map(str::to_owned), &rows);
    page.finish()
}

/// The page of a made-up run, to try its layout with: names as long as they come, and an error.
pub(super) fn sample() -> String {
    let outcome = |number: u64| Outcome {
        name: format!("passthrough/unpatched-no-vfio-device-{number}"),
        error: (number == 3).then(|| format!("expected {}, found nothing", "a".repeat(200))),
        took: Duration::from_millis(number * number * number * 17),
    };
    let stage = |number: u64| Stage {
        name: format!("Kernel fdbox-debug, stage {number} of twenty"),
        begins: Duration::from_secs(number * 40),
        took: Duration::from_secs(number * 7),
    };
    written(
        &(0..40).map(outcome).collect::<Vec<_>>(),
        &(0..20).map(stage).collect::<Vec<_>>(),
        Duration::from_secs(2726),
        Some("40 of 900 tests, part 3/8"),
    )
}

fn span(stage: &Stage) -> Span {
    Span {
        name: stage.name.clone(),
        begins_ns: nanoseconds(stage.begins),
        took_ns: nanoseconds(stage.took),
    }
}

fn slowest(outcomes: &[Outcome]) -> Vec<(String, u64)> {
    let all = outcomes.iter();
    let mut all: Vec<_> = all
        .map(|outcome| (outcome.name.clone(), nanoseconds(outcome.took)))
        .collect();
    all.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    all.truncate(SLOWEST);
    all
}

fn row(outcome: &Outcome) -> Vec<String> {
    let verdict = if outcome.error.is_some() {
        "FAILED"
    } else {
        "ok"
    };
    let took = time(nanoseconds(outcome.took));
    vec![outcome.name.clone(), verdict.to_owned(), took]
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(name: &str, error: Option<&str>, seconds: u64) -> Outcome {
        Outcome {
            name: name.to_owned(),
            error: error.map(str::to_owned),
            took: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn a_failed_test_is_shown_with_its_error_before_all_others() {
        let outcomes = [
            outcome("a/good", None, 3),
            outcome("b/bad", Some("expected <1>"), 400),
        ];
        let stage = Stage {
            name: "2 hosts".to_owned(),
            begins: Duration::from_secs(1),
            took: Duration::from_secs(2),
        };
        let elapsed = Duration::from_secs(9);
        let page = written(&outcomes, &[stage], elapsed, Some("2 of 9 tests"));
        let error = page.find("expected &lt;1&gt;").unwrap();
        assert!(error < page.find("All tests").unwrap());
        for wanted in [
            "2 of 9 tests",
            ">2 hosts<",
            "<td>400 s</td>",
            "class=\"bad\"",
        ] {
            assert!(page.contains(wanted), "{wanted}");
        }
        assert!(page.find(">b/bad<").unwrap() < page.find(">a/good<").unwrap());
    }

    #[test]
    fn nothing_failed_is_not_marked_as_bad() {
        let page = written(&[outcome("a", None, 1)], &[], Duration::ZERO, None);
        assert!(!page.contains("class=\"bad\"") && !page.contains("Failed:"));
    }
}
