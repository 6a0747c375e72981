//! Builds, checks, installs and removes the Debian packages.

use std::time::Instant;

use anyhow::Result;

use super::lanes::{Job, Needs};
use super::{Outcome, Suite};
use crate::deb;
use crate::lab::Lab;

/// A test of the packages, which takes about as long as a host.
type Test = (&'static str, fn(&Lab) -> Result<()>);

const TESTS: [Test; 2] = [
    ("package/install", deb::test),
    ("package/host", deb::test_in_host),
];

pub(super) fn jobs<'a>(suite: &Suite<'a>) -> Vec<Job<'a>> {
    let lab = suite.lab;
    let wanted = TESTS.into_iter().filter(|(name, _)| suite.wants(name));
    let job = |(name, test): Test| Job {
        host: name.to_owned(),
        tests: vec![name.to_owned()],
        kernels: 1,
        is_shared: false,
        needs: Needs::default(),
        alone: false,
        act: Box::new(move || {
            let started = Instant::now();
            let error = test(lab).err();
            vec![Outcome {
                name: name.to_owned(),
                error: error.map(|error| format!("{error:#}")),
                took: started.elapsed(),
            }]
        }),
    };
    wanted.map(job).collect()
}
