//! Scenarios on kernels as they come: Debian's own, hosts whose two kernels are of different kinds or versions, and
//! guests with other kernels than the lab's.

mod page;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::scenario::Listed;

use super::Suite;
use super::lanes::Job;
use super::scenarios::{Boot, list};
use crate::cli::TestArgs;
use crate::kernel::Flavour;
use crate::lab::Lab;
use crate::run::Record;
use crate::scenario_host::OtherKernels;
use crate::verdict::{Outcome, judge};

/// A scenario with other kernels than its own.
#[derive(Debug, Clone, Copy)]
struct Pair {
    name: &'static str,
    scenario: &'static str,
    /// One kernel for each of the scenario's.
    host: &'static [Flavour],
    guest: Flavour,
    /// What the page says of it.
    shows: &'static str,
    /// Set for the scenario.
    environment: &'static str,
    /// Whether it runs only if it is asked for, because it needs a kernel that nothing else does, or the whole machine.
    on_demand: bool,
}

const HOLDER: &str = "homes/guest-holder";
const LUO: &str = "homes/guest-luo";
const FDBOX: &str = "devices/across-a-kexec";
const DOCTOR: &str = "doctor/without-kho";

const BINARY: &str = "`holder`: another VMM in the same kernel";
const FLEET: &str = "guests/four-in-one-kexec";
const LUO_FLEET: &str = "`luo`: a kexec with two guests";
const LUO_KEXEC: &str = "`luo`: a kexec";
const LUO_KEXEC_OLDER: &str = "`luo`: a kexec, the guest with `tsc=nowatchdog`";
const FDBOX_KEXEC: &str = "`fdbox`: a kexec";
const NO_KEXEC: &str = "`doctor`: guests run, none survives a kexec";

const fn pair(
    name: &'static str,
    scenario: &'static str,
    host: &'static [Flavour],
    guest: Flavour,
    shows: &'static str,
) -> Pair {
    Pair {
        name,
        scenario,
        host,
        guest,
        shows,
        environment: "",
        on_demand: false,
    }
}

impl Pair {
    const fn with(self, environment: &'static str) -> Self {
        Self {
            environment,
            ..self
        }
    }

    const fn on_demand(self) -> Self {
        Self {
            on_demand: true,
            ..self
        }
    }
}

/// The rows of docs/kernels.md, in order.
const PAIRS: [Pair; 16] = {
    use Flavour::{A, B, Backports, BackportsCloud, Debian, DebianCloud, Debug, Older, Stock};
    [
        pair(
            "matrix/holder-debian-cloud",
            HOLDER,
            &[DebianCloud],
            DebianCloud,
            BINARY,
        ),
        pair(
            "matrix/holder-backports-cloud",
            HOLDER,
            &[BackportsCloud],
            BackportsCloud,
            BINARY,
        ),
        pair("matrix/holder-debian", HOLDER, &[Debian], Stock, BINARY).on_demand(),
        pair(
            "matrix/holder-backports",
            HOLDER,
            &[Backports],
            Debian,
            BINARY,
        )
        .on_demand(),
        pair(
            "matrix/doctor-debian-cloud",
            DOCTOR,
            &[DebianCloud],
            Stock,
            NO_KEXEC,
        ),
        pair(
            "matrix/doctor-backports-cloud",
            DOCTOR,
            &[BackportsCloud],
            Stock,
            NO_KEXEC,
        ),
        pair(
            "matrix/fdbox-guest-debian-cloud",
            FDBOX,
            &[A, B],
            DebianCloud,
            FDBOX_KEXEC,
        ),
        pair(
            "matrix/fdbox-guest-backports",
            FDBOX,
            &[A, B],
            Backports,
            FDBOX_KEXEC,
        )
        .on_demand(),
        // Nearly every structure of a kernel with these checks has another layout.
        pair(
            "matrix/fdbox-to-debug",
            FDBOX,
            &[A, Debug],
            Stock,
            FDBOX_KEXEC,
        )
        .on_demand(),
        pair(
            "matrix/fdbox-from-debug",
            FDBOX,
            &[Debug, B],
            Stock,
            FDBOX_KEXEC,
        )
        .on_demand(),
        pair("matrix/luo-to-patched", LUO, &[Stock, A], Stock, LUO_KEXEC),
        pair(
            "matrix/luo-from-patched",
            LUO,
            &[A, Stock],
            DebianCloud,
            LUO_KEXEC,
        ),
        pair("matrix/luo-fleet", FLEET, &[Stock, Stock], Stock, LUO_FLEET)
            .with("LAB_GUESTS=2 LAB_FLEET_RAM=memfd")
            .on_demand(),
        pair(
            "matrix/luo-to-newer",
            LUO,
            &[Older, Stock],
            Stock,
            LUO_KEXEC,
        )
        .on_demand(),
        pair(
            "matrix/luo-to-older",
            LUO,
            &[Stock, Older],
            Stock,
            LUO_KEXEC,
        )
        .on_demand(),
        pair(
            "matrix/luo-older-to-patched",
            LUO,
            &[Older, A],
            Older,
            LUO_KEXEC_OLDER,
        )
        // 7.2 fails its own clocks after any pause: see docs/kernels.md.
        .with("LAB_GUEST_CMDLINE=tsc=nowatchdog")
        .on_demand(),
    ]
};

/// One job per pair.
pub(super) fn jobs<'a>(suite: &Suite<'a>, args: &'a TestArgs) -> Result<Vec<Job<'a>>> {
    let lab = suite.lab;
    let is_asked_for = args.all || !args.filters.is_empty();
    let wanted = PAIRS.iter().filter(|pair| {
        let in_turn = is_asked_for || !pair.on_demand;
        in_turn && suite.wants(pair.name)
    });
    let listed = list(lab)?;
    let job = |pair: &'static Pair| {
        let boot = boot(pair, &listed)?;
        Ok(Job {
            host: pair.name.to_owned(),
            tests: vec![pair.name.to_owned()],
            kernels: pair.host.len(),
            is_shared: false,
            needs: boot.needs(),
            alone: boot.kind.fills_the_machine(),
            act: Box::new(move || vec![outcome(pair, &boot, lab, args)]),
        })
    };
    wanted.map(job).collect()
}

fn boot(pair: &Pair, listed: &[Listed]) -> Result<Boot> {
    let mut listed = listed.iter();
    let scenario = listed.find(|listed| listed.name == pair.scenario);
    let scenario = scenario.with_context(|| format!("There is no scenario {}", pair.scenario))?;
    Ok(Boot {
        kind: scenario.host,
        kernels: scenario.kernels,
        group: vec![scenario.clone()],
        debug: false,
        other: Some(OtherKernels {
            host: pair.host,
            guest: pair.guest,
        }),
        cpus: None,
        environment: pair.environment,
    })
}

fn outcome(pair: &Pair, boot: &Boot, lab: &Lab, args: &TestArgs) -> Outcome {
    let started = Instant::now();
    let (error, took) = match run(pair, boot, lab, args) {
        Ok(outcome) => (outcome.error, outcome.took),
        Err(error) => (Some(format!("{error:#}")), Duration::ZERO),
    };
    Outcome {
        name: pair.name.to_owned(),
        error,
        took: took.max(started.elapsed()),
    }
}

/// Boots the host, and notes the verdict on the page if that is asked for.
fn run(pair: &Pair, boot: &Boot, lab: &Lab, args: &TestArgs) -> Result<Outcome> {
    let (record, logs) = boot.run(lab, args.verbose)?;
    let outcome = judge(&boot.group[0], 0, &record, &logs);
    if args.note_kernels {
        let row = row(pair, &record, outcome.error.is_none())?;
        page::note(&lab.checkout, &row)?;
    }
    Ok(outcome)
}

fn row(pair: &Pair, record: &Record, works: bool) -> Result<page::Row> {
    let host = record.hellos.iter().map(|(_, hello)| hello.release.clone());
    let witness = record
        .values
        .iter()
        .find(|value| value.name.starts_with("witness"));
    let guest = witness.and_then(|value| value.value["release"].as_str());
    Ok(page::Row {
        name: pair.name.to_owned(),
        host: host.collect::<Vec<_>>().join(" to "),
        guest: guest.unwrap_or("-").to_owned(),
        shows: pair.shows.to_owned(),
        verdict: if works { "works" } else { "fails" }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_pairs_and_nothing_else() {
        let rows = page::rows(include_str!("../../../../docs/kernels.md"));
        let has = |pair: &&Pair| rows.iter().any(|row| row.name == pair.name);
        // Those on demand have a row once they have run.
        let expected = PAIRS.iter().filter(|pair| !pair.on_demand || has(pair));
        let expected: Vec<&Pair> = expected.collect();
        let names: Vec<&str> = expected.iter().map(|pair| pair.name).collect();
        let found: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(found, names);
        for (row, pair) in rows.iter().zip(expected) {
            assert_eq!(row.shows, pair.shows, "{}", row.name);
            assert_eq!(row.host.split(" to ").count(), pair.host.len(), "{row:?}");
        }
    }

    #[test]
    fn a_row_names_the_kernels_that_were_seen() {
        use crate::run::Value;
        use fdbox_lab::event::Hello;
        let hello = |release: &str| {
            let hello = Hello {
                stage: 1,
                release: release.to_owned(),
                version: String::new(),
                boot_id: String::new(),
                uptime_ns: 0,
                tsc: 0,
            };
            (Duration::ZERO, hello)
        };
        let mut record = Record::default();
        record.hellos = vec![hello("7.2.1"), hello("7.3.4")];
        let row = |record: &Record, works| row(&PAIRS[0], record, works).unwrap();
        assert_eq!(row(&record, true).host, "7.2.1 to 7.3.4");
        assert_eq!(row(&record, true).guest, "-");
        assert_eq!(row(&record, false).verdict, "fails");
        record.values.push(Value {
            at: Duration::ZERO,
            name: "witness".to_owned(),
            value: serde_json::json!({ "release": "6.12" }),
        });
        assert_eq!(row(&record, true).guest, "6.12");
    }
}
