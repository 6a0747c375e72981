//! Builds, checks, installs and removes the Debian packages.

use anyhow::Result;

use super::Suite;
use super::lanes::{Job, Needs};
use crate::cli::TestArgs;
use crate::deb;
use crate::kernel::Flavour;
use crate::lab::Lab;

/// A test of the packages, which takes about as long as a host.
struct Test {
    name: &'static str,
    act: fn(&Lab) -> Result<()>,
    /// What it boots beside Debian's kernel. A test with such kernels runs only if it is asked for, because nothing else
    /// needs them.
    kernels: &'static [Flavour],
}

const fn test(name: &'static str, act: fn(&Lab) -> Result<()>) -> Test {
    Test {
        name,
        act,
        kernels: &[],
    }
}

const TESTS: [Test; 8] = [
    test("package/configuration", deb::test_configuration),
    test("package/install", deb::test),
    test("package/host", deb::test_in_host),
    test("package/keeper", deb::test_keeper),
    test("package/kernel", deb::test_kernel),
    Test {
        name: "package/update",
        act: deb::test_update,
        kernels: &deb::KERNELS,
    },
    Test {
        name: "package/luo",
        act: deb::test_luo,
        kernels: &deb::KERNELS,
    },
    Test {
        name: "package/dkms",
        act: deb::test_dkms,
        kernels: &deb::KERNELS,
    },
];

pub(super) fn jobs<'a>(suite: &Suite<'a>, args: &TestArgs) -> Vec<Job<'a>> {
    let lab = suite.lab;
    let is_asked_for = args.all || !args.filters.is_empty();
    let wanted = TESTS.into_iter().filter(|test| {
        let in_turn = is_asked_for || test.kernels.is_empty();
        in_turn && suite.wants(test.name)
    });
    let job = |test: Test| Job {
        needs: Needs {
            kernels: test.kernels.to_vec(),
            ..Needs::default()
        },
        ..Job::of_one(test.name, 1 + test.kernels.len(), move || (test.act)(lab))
    };
    wanted.map(job).collect()
}
