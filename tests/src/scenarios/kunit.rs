//! The results of the module's own unit tests, which ran when it was loaded, in a kernel with
//! KUnit.

use std::fs::read_to_string;

use anyhow::{Context, Result, ensure};

/// The tests; every suite must have run.
const TESTS: [&str; 2] = [
    include_str!("../../../kmod/kunit.rs"),
    include_str!("../../../kmod/kunit_boxes.rs"),
];

/// Fails with KUnit's report if a test of the module failed, or did not run.
pub(crate) fn check() -> Result<()> {
    let suites: Vec<(&str, usize)> = suites().collect();
    ensure!(!suites.is_empty(), "The module has no tests");
    for (suite, tests) in suites {
        let path = format!("/sys/kernel/debug/kunit/{suite}/results");
        let results = read_to_string(&path).with_context(|| {
            format!("Read {path}: the kernel lacks CONFIG_KUNIT=y, or the tests did not run")
        })?;
        all_passed(suite, tests, &results)?;
    }
    Ok(())
}

/// (name, number of tests) of each suite.
fn suites() -> impl Iterator<Item = (&'static str, usize)> {
    let texts = TESTS.into_iter();
    let suites = texts.flat_map(|tests| tests.split("#[kunit_tests(").skip(1));
    suites.map(|text| {
        let name = text.split(')').next().unwrap_or_default();
        (name, text.matches("#[test]").count())
    })
}

/// `results` is KTAP: one line per test, and one for the suite.
fn all_passed(suite: &str, tests: usize, results: &str) -> Result<()> {
    let lines = || results.lines().map(str::trim_start);
    let failed = lines().any(|line| line.starts_with("not ok"));
    let passed = lines().filter(|line| line.starts_with("ok ")).count();
    let skipped = lines().any(|line| line.contains("# SKIP"));
    ensure!(
        !failed && !skipped && passed == tests + 1,
        "Of the {tests} tests of {suite} not all passed:\n{results}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESULTS: &str = "\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: fdbox_name
    # module: fdbox
    1..2
    ok 1 one
    ok 2 two
# fdbox_name: pass:2 fail:0 skip:0 total:2
# Totals: pass:2 fail:0 skip:0 total:2
ok 1 fdbox_name
";

    #[test]
    fn every_suite_is_found_with_its_tests() {
        let names: Vec<_> = suites().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "fdbox_abi",
                "fdbox_record",
                "fdbox_coalesce",
                "fdbox_name",
                "fdbox_host",
                "fdbox_boxes"
            ]
        );
        assert!(suites().all(|(_, tests)| tests > 2));
    }

    #[test]
    fn all_have_to_pass() {
        all_passed("fdbox_name", 2, RESULTS).unwrap();
        for (line, instead) in [
            ("ok 2 two", "not ok 2 two"),
            ("    ok 2 two\n", ""),
            ("ok 2 two", "ok 2 two # SKIP"),
            ("ok 1 fdbox_name\n", ""),
        ] {
            let results = RESULTS.replace(line, instead);
            assert!(all_passed("fdbox_name", 2, &results).is_err(), "{results}");
        }
        assert!(all_passed("fdbox_name", 2, "").is_err());
    }
}
