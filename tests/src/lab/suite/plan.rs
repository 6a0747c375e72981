//! Which part of the suite a run executes, and how it reports that.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use super::costs::Costs;
use super::lanes::Job;
use super::rotation::{self, Part, Turn};
use super::{Suite, debug, host_command, layout, matrix, packages, scenarios, selftests};
use crate::cli::TestArgs;
use crate::command;
use crate::kernel::Flavour;
use crate::progress::{human, say};

/// The assumed cost per kernel of a host that was not measured yet, in seconds.
const NEW: u32 = 30;
/// The kernels of every run. All hosts that boot another kernel are in the same part, so that only
/// that part has to build it.
const ALWAYS_BUILT: [Flavour; 4] = [Flavour::Stock, Flavour::A, Flavour::B, Flavour::Debug];
/// Width of the output, in columns.
const WIDTH: usize = 100;

/// The hosts of this run, and those that are left to others.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// The longest first, so that the lanes end at about the same time.
    pub(super) jobs: Vec<Job<'a>>,
    pub(super) part: Option<Part>,
    /// Why this part was selected.
    why: String,
    /// The hosts that run in every part.
    always: Vec<String>,
    /// The hosts of each part.
    parts: Vec<Vec<String>>,
    /// The tests that other parts run.
    pub(super) left: Vec<String>,
    cost: u32,
}

impl<'a> Plan<'a> {
    pub(super) fn of(suite: &Suite<'a>, args: &'a TestArgs) -> Result<Self> {
        let is_turn = args.part.is_none() && !args.all && args.filters.is_empty();
        let (number, why) = turn_of(&suite.lab.checkout);
        let guest_cpus = match is_turn {
            true => rotation::guest_cpus(number),
            false => 1,
        };
        let mut jobs = selftests::jobs(suite, args.verbose);
        jobs.extend(debug::jobs(suite, args)?);
        jobs.extend(scenarios::jobs(suite, args, guest_cpus)?);
        jobs.extend(host_command::jobs(suite, args.verbose));
        jobs.extend(packages::jobs(suite, args));
        jobs.extend(layout::jobs(suite));
        jobs.extend(matrix::jobs(suite, args)?);
        let costs = Costs::known();
        let turns: Vec<Turn> = jobs.iter().map(|job| turn(job, &costs)).collect();
        let (part, why) = match args.part {
            _ if args.all || !args.filters.is_empty() => (None, String::new()),
            Some(part) => (Some(part), "as you ask".to_owned()),
            None => {
                let of = rotation::parts(&turns, rotation::BUDGET);
                let cpus = format!("hosts with one guest have {guest_cpus} CPUs");
                (Some(Part::of_turn(number, of)), format!("{why}; {cpus}"))
            }
        };
        Ok(Self::choose(jobs, &turns, part, why))
    }

    fn choose(jobs: Vec<Job<'a>>, turns: &[Turn], part: Option<Part>, why: String) -> Self {
        let of = part.map_or(1, |part| part.of);
        let split = rotation::split(turns, of);
        let mut plan = Self {
            jobs: Vec::new(),
            part,
            why,
            always: Vec::new(),
            parts: vec![Vec::new(); of],
            left: Vec::new(),
            cost: 0,
        };
        let mut taken = Vec::new();
        for ((job, turn), number) in jobs.into_iter().zip(turns).zip(split) {
            match number {
                0 => plan.always.push(turn.host.clone()),
                number => plan.parts[number - 1].push(turn.host.clone()),
            }
            if number == 0 || part.is_none_or(|part| part.number == number) {
                plan.cost += turn.seconds;
                taken.push((turn.seconds, job));
            } else {
                plan.left.extend(job.tests);
            }
        }
        taken.sort_by_key(|(seconds, _)| std::cmp::Reverse(*seconds));
        plan.jobs = taken.into_iter().map(|(_, job)| job).collect();
        plan
    }

    /// Shows what runs and what is left to the other parts.
    pub(super) fn tell(&self, lanes: usize) {
        let Some(part) = self.part else { return };
        let hosts = self.jobs.len();
        let lane = Duration::from_secs((self.cost as usize / lanes) as u64);
        say(&format!(
            "Part {part}, {}: {hosts} hosts, about {} in {lanes} lanes. All of them: --all; one part: --part K/{}",
            self.why,
            human(lane),
            part.of
        ));
        tell_list("always", &self.always);
        for (index, hosts) in self.parts.iter().enumerate() {
            let runs = if index + 1 == part.number {
                "runs"
            } else {
                "left out"
            };
            tell_list(&format!("part {}/{}, {runs}", index + 1, part.of), hosts);
        }
        say("");
    }

    /// Lists the tests of each host.
    pub(super) fn list(&self) {
        for job in &self.jobs {
            tell_list(&job.host, &job.tests);
        }
    }

    /// Which part of the suite was covered when `done` tests ran.
    pub(super) fn coverage(&self, done: usize) -> Option<String> {
        let part = self.part?;
        let all = done + self.left.len();
        Some(format!(
            "{done} of {all} tests, part {part} ({}); the others: cargo lab test --all",
            self.why
        ))
    }
}

fn turn(job: &Job<'_>, costs: &Costs) -> Turn {
    let measured = costs.of(&job.host);
    let guess = NEW * u32::try_from(job.kernels).unwrap_or(1);
    let is_seldom = |flavour: &&Flavour| !ALWAYS_BUILT.contains(flavour) && !flavour.is_packaged();
    let seldom = job.needs.kernels.iter().find(is_seldom);
    Turn {
        host: job.host.clone(),
        seconds: measured.unwrap_or(guess) * if job.alone { 2 } else { 1 },
        is_measured: measured.is_some(),
        always: seldom.is_none() && rotation::is_always(&job.host, job.is_shared),
        with: seldom.map(|flavour| flavour.name()),
    }
}

/// The turn of this run, and its origin: each commit is one more than its predecessor. Without the
/// history it is the number of the day.
fn turn_of(checkout: &Path) -> (u64, String) {
    let git = |arguments: &[&str]| {
        let mut git = Command::new("git");
        command::output(git.arg("-C").arg(checkout).args(arguments)).ok()
    };
    let is_whole = git(&["rev-parse", "--is-shallow-repository"]).is_some_and(|it| it == "false");
    let commits = is_whole
        .then(|| git(&["rev-list", "--count", "HEAD"])?.parse().ok())
        .flatten();
    match commits {
        Some(commits) => (commits, format!("by the number of commits, {commits}")),
        None => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            let day = now.map_or(0, |now| now.as_secs() / (24 * 60 * 60));
            (day, format!("by the day, the {day}th since 1970"))
        }
    }
}

fn tell_list(title: &str, names: &[String]) {
    wrapped(title, names).iter().for_each(|line| say(line));
}

/// A title and names, wrapped.
fn wrapped(title: &str, names: &[String]) -> Vec<String> {
    let mut lines = vec![format!("  {title}:")];
    for name in names {
        let last = lines.last_mut().expect("there is the title's");
        if last.len() + 1 + name.len() > WIDTH {
            lines.push(format!("    {name}"));
        } else {
            *last += " ";
            *last += name;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::lanes::Needs;
    use super::*;

    fn job(host: &str, tests: &[&str]) -> Job<'static> {
        Job {
            host: host.to_owned(),
            tests: tests.iter().map(|&test| test.to_owned()).collect(),
            kernels: 2,
            is_shared: tests.len() > 1,
            needs: Needs::default(),
            alone: false,
            act: Box::new(Vec::new),
        }
    }

    fn jobs() -> Vec<Job<'static>> {
        let lonely = ["a/1", "a/2", "a/3", "a/4", "a/5"].map(|name| job(name, &[name]));
        let mut jobs = vec![job("kexec-2", &["b/1", "b/2", "b/3"])];
        jobs.extend(lonely);
        jobs
    }

    fn plan(part: Option<Part>) -> Plan<'static> {
        let jobs = jobs();
        let turns: Vec<_> = jobs
            .iter()
            .map(|job| turn(job, &Costs::default()))
            .collect();
        Plan::choose(jobs, &turns, part, "why".into())
    }

    fn tests(plan: &Plan<'_>) -> Vec<String> {
        let mut tests: Vec<_> = plan.jobs.iter().flat_map(|job| job.tests.clone()).collect();
        tests.sort();
        tests
    }

    #[test]
    fn parts_cover_every_test_and_each_tells_what_it_leaves() {
        let all = tests(&plan(None));
        assert_eq!(all.len(), 8);
        assert_eq!(plan(None).coverage(8), None);
        let mut covered = Vec::new();
        for number in 1..=3 {
            let plan = plan(Some(Part { number, of: 3 }));
            let taken = tests(&plan);
            assert!(
                ["b/1", "b/2", "b/3"]
                    .iter()
                    .all(|test| taken.iter().any(|it| it == test))
            );
            let mut both = [taken.clone(), plan.left.clone()].concat();
            both.sort();
            assert_eq!(both, all);
            let coverage = plan.coverage(taken.len()).unwrap();
            let start = format!("{} of 8 tests, part {number}/3", taken.len());
            assert!(coverage.starts_with(&start), "{coverage}");
            covered.extend(taken);
        }
        covered.sort();
        covered.dedup();
        assert_eq!(covered, all);
    }

    #[test]
    fn long_lists_are_wrapped_and_whole() {
        let names: Vec<_> = (0..40).map(|n| format!("name/{n}")).collect();
        let lines = wrapped("always", &names);
        assert!(lines.len() > 2 && lines.iter().all(|line| line.len() <= WIDTH));
        let words = lines.join(" ");
        assert!(
            names
                .iter()
                .all(|name| words.split(' ').any(|word| word == name))
        );
    }

    #[test]
    fn without_a_history_it_goes_by_the_day() {
        let dir = tempfile::tempdir().unwrap();
        let (_, why) = turn_of(dir.path());
        assert!(why.contains("day"), "{why}");
    }
}
