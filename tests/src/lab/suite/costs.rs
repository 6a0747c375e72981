//! The measured cost of each host: the file `costs` next to this one.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// The path of the file in the checkout.
const FILE: &str = "tests/src/lab/suite/costs";
/// The comment at the top of the file.
const HEADER: &str = "\
# What each host of `cargo lab test` costs: seconds of one of two lanes, measured.
# Written by `cargo lab test --all --note-costs`.
";

/// The costs of the hosts in seconds, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Costs(BTreeMap<String, u32>);

impl Costs {
    /// The costs in the tree.
    pub(super) fn known() -> Self {
        Self::parse(include_str!("costs"))
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (host, seconds) = line.split_once(' ')?;
            Some((host.to_owned(), seconds.trim().parse().ok()?))
        };
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(lines.filter_map(line).collect())
    }

    pub(super) fn of(&self, host: &str) -> Option<u32> {
        self.0.get(host).copied()
    }

    fn text(&self) -> String {
        let mut text = HEADER.to_owned();
        for (host, seconds) in &self.0 {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{host} {seconds}");
        }
        text
    }

    /// Adds the new measurements. If these are of `all` hosts, hosts that no longer exist are
    /// removed.
    fn with(mut self, measured: &[(String, Duration)], all: bool) -> Self {
        if all {
            self.0
                .retain(|host, _| measured.iter().any(|(name, _)| name == host));
        }
        for (host, took) in measured {
            let seconds = u32::try_from(took.as_secs()).unwrap_or(u32::MAX).max(1);
            self.0.insert(host.clone(), seconds);
        }
        self
    }
}

/// Writes the measurements to the checkout.
pub(super) fn note(checkout: &Path, measured: &[(String, Duration)], all: bool) -> Result<()> {
    let path = checkout.join(FILE);
    std::fs::write(&path, Costs::known().with(measured, all).text())
        .with_context(|| format!("Write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_what_the_lab_writes() {
        let known = Costs::known();
        assert_eq!(known.text(), include_str!("costs"));
    }

    #[test]
    fn what_was_measured_counts_and_what_is_gone_goes() {
        let costs = Costs::parse("# a comment\na/b 10\nc 20\n");
        assert_eq!((costs.of("a/b"), costs.of("c")), (Some(10), Some(20)));
        assert_eq!(costs.of("# a"), None);
        let measured = [("c".to_owned(), Duration::from_millis(31_900))];
        let some = costs.clone().with(&measured, false);
        assert_eq!((some.of("a/b"), some.of("c")), (Some(10), Some(31)));
        let all = costs.with(&measured, true);
        assert_eq!((all.of("a/b"), all.of("c")), (None, Some(31)));
        assert_eq!(Costs::parse(&all.text()), all);
    }
}
