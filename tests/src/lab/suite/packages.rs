//! Builds, checks, installs and removes the Debian packages.

use anyhow::Result;

use super::Suite;
use super::lanes::Job;
use crate::deb;
use crate::lab::Lab;

/// A test of the packages, which takes about as long as a host.
type Test = (&'static str, fn(&Lab) -> Result<()>);

const TESTS: [Test; 4] = [
    ("package/install", deb::test),
    ("package/host", deb::test_in_host),
    ("package/keeper", deb::test_keeper),
    ("package/kernel", deb::test_kernel),
];

pub(super) fn jobs<'a>(suite: &Suite<'a>) -> Vec<Job<'a>> {
    let lab = suite.lab;
    let wanted = TESTS.into_iter().filter(|(name, _)| suite.wants(name));
    wanted
        .map(|(name, test)| Job::of_one(name, 1, move || test(lab)))
        .collect()
}
