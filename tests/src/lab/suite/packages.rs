//! Builds, checks, installs and removes the Debian packages.

use std::time::Instant;

use super::lanes::{Job, Needs};
use super::{Outcome, Suite};
use crate::deb;

const NAME: &str = "package/install";

/// This boots nothing, but takes about as long as a host.
pub(super) fn jobs<'a>(suite: &Suite<'a>) -> Vec<Job<'a>> {
    let lab = suite.lab;
    let wanted = suite.wants(NAME).then_some(NAME);
    let job = |name: &'static str| Job {
        host: name.to_owned(),
        tests: vec![name.to_owned()],
        kernels: 1,
        is_shared: false,
        needs: Needs::default(),
        alone: false,
        act: Box::new(move || {
            let started = Instant::now();
            let error = deb::test(lab).err();
            vec![Outcome {
                name: name.to_owned(),
                error: error.map(|error| format!("{error:#}")),
                took: started.elapsed(),
            }]
        }),
    };
    wanted.map(job).into_iter().collect()
}
