//! What the operator can do about a guest that is lost.

use vmm_fdbox::update::{ExitStatus, FleetOutcome};

use crate::cli::{HomeArgs, LiveUpdateArgs};

/// Names the box, which may still hold the guest's memory and takes the name from the next update.
pub(super) fn remedy(guest: &str, box_name: &str, home: &HomeArgs) -> String {
    let home = home.again();
    format!(
        "boot {guest} anew with `vmm-example run`; if `vmm-example status` shows box {box_name}, \
         `vmm-example discard --box {box_name}{home} --yes` frees it and the memory in it"
    )
}

/// Adds what to do about each guest that is lost to the problems that the operator is shown.
pub(super) fn add_remedies(outcome: &mut FleetOutcome, args: &LiveUpdateArgs) {
    let own = args.box_name.as_ref().map(ToString::to_string);
    for member in &outcome.members {
        let stopped = member.stopped.as_ref();
        if stopped.is_some_and(|stopped| stopped.status == ExitStatus::GuestLost) {
            let box_name = own.as_ref().unwrap_or(&member.name);
            let remedy = remedy(&member.name, box_name, &args.home);
            outcome.problems.push(remedy);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use vmm_fdbox::update::{MemberOutcome, Step, Stopped};

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(options: &str) -> LiveUpdateArgs {
        let line = format!("vmm live-update {options}");
        match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
            Ok(Command::LiveUpdate(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    /// What an operator is told of guests that ended like this.
    fn told(options: &str, ends: &[(&str, ExitStatus)]) -> Vec<String> {
        let member = |(name, status): &(&str, ExitStatus)| MemberOutcome {
            name: (*name).into(),
            stopped: Some(Stopped {
                status: *status,
                ..Stopped::untouched("no")
            }),
            not_ready: false,
            report: None,
            findings: Vec::new(),
        };
        let mut outcome = FleetOutcome {
            failure: Some((Step::Jump, "no".into())),
            cancelled: false,
            members: ends.iter().map(member).collect(),
            findings: Vec::new(),
            problems: Vec::new(),
        };
        add_remedies(&mut outcome, &args(options));
        outcome.problems
    }

    #[test]
    fn only_for_lost_guests_is_there_something_to_do() {
        let told = told(
            "--all --no-kexec",
            &[
                ("vm0", ExitStatus::RolledBack),
                ("vm1", ExitStatus::GuestLost),
                ("vm2", ExitStatus::WaitsInBox),
            ],
        );
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("boot vm1 anew"), "{told:?}");
        assert!(
            told[0].contains("`vmm-example discard --box vm1 --yes`"),
            "{told:?}"
        );
    }

    /// Its name, and its home: without them, the command is about another box, or none.
    #[test]
    fn the_command_is_about_the_box_of_this_update() {
        let options = "--api-socket s --no-kexec --box spare --home holder --keeper /run/other";
        let told = told(options, &[("vm0", ExitStatus::GuestLost)]);
        let (_, command) = told[0].split_once(", `vmm-example ").unwrap();
        let (command, _) = command.split_once('`').unwrap();
        let parsed = Cli::try_parse_from(format!("vmm {command}").split_whitespace());
        let Ok(Command::Discard(discard)) = parsed.map(|cli| cli.command) else {
            panic!("{command}")
        };
        let home = &args(options).home;
        assert_eq!(discard.box_name.to_string(), "spare");
        assert_eq!(
            (discard.home.home, &discard.home.keeper),
            (home.home, &home.keeper)
        );
        assert!(discard.yes);
    }

    #[test]
    fn the_guide_quotes_it() {
        let guide = include_str!("../../../docs/operations.md");
        let remedy = remedy("vm0", "vm0", &args("--api-socket s --no-kexec").home);
        assert!(guide.contains(&remedy), "{remedy}");
    }
}
