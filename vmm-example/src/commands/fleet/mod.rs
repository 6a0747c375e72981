//! `live-update` of many guests: this process tells their VMMs when, and jumps.

mod discover;
mod member;
mod output;

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use vmm_fdbox::update::{
    CancelFlag, ExitStatus, Fleet, FleetOutcome, FleetPlan, Host, Limits, SameHost,
};
use vmm_fdbox::{Control, sealed_kinds};

use self::member::{RemoteMember, STATUS_LIMIT};
use self::output::Output;
use super::live_update::next_kernel;
use crate::cli::LiveUpdateArgs;
use crate::commands::interrupt;
use crate::service::api::Client;
use crate::service::api::joint::JoinRequest;
use crate::service::api::protocol::Request;

/// Whether the options are about more than one guest.
pub(super) fn is_meant(args: &LiveUpdateArgs) -> bool {
    args.fleet.all || args.api_socket.len() != 1
}

pub(super) fn live_update(args: LiveUpdateArgs) -> anyhow::Result<ExitStatus> {
    if args.binary.is_some() {
        bail!("--binary is for one guest: give one --api-socket");
    }
    let output = Output::new(args.json);
    let members = members(&args, &output)?;
    let cancel = CancelFlag::new();
    watch_for_interrupt(&members, &cancel)?;
    // Without the module there is nothing in boxes; each VMM says that it is missing.
    let kinds = Control::open().map(|control| sealed_kinds(&control));
    let plan = FleetPlan {
        kinds: kinds.unwrap_or_default(),
        not_ready: args.fleet.not_ready.into(),
        cancel,
        limits: Limits::default(),
        lease: false,
        fail_at: args.fail_at.filter(|_| args.fleet.fail_guest.is_none()),
    };
    let dry_run = args.dry_run;
    let outcome = match args.kernel {
        Some(kernel) => {
            let next = next_kernel(&kernel, args.initramfs, args.cmdline, args.assume_patches)?;
            let mut host = next.into_host();
            drive(&mut host, members, plan, dry_run, &output)
        }
        None => drive(&mut SameHost, members, plan, dry_run, &output),
    };
    output.end(&outcome, dry_run);
    Ok(outcome.exit_status())
}

fn drive<H: Host>(
    host: &mut H,
    members: Vec<RemoteMember>,
    plan: FleetPlan,
    dry_run: bool,
    output: &Output,
) -> FleetOutcome {
    let _ticker = output.ticker();
    let fleet = Fleet::new(host, members, plan).observed_by(|event| output.fleet_event(event));
    if dry_run {
        fleet.dry_run()
    } else {
        fleet.run()
    }
}

/// The guests that take part, each with its order to join.
fn members(args: &LiveUpdateArgs, output: &Output) -> anyhow::Result<Vec<RemoteMember>> {
    let sockets = if args.fleet.all {
        discover::sockets(&args.fleet.run_dir)?
    } else {
        args.api_socket.clone()
    };
    let same_kernel = args.kernel.is_none();
    let members: Vec<_> = sockets
        .iter()
        .map(|socket| RemoteMember::connect(socket, output))
        .collect();
    let names: Vec<&str> = members.iter().map(RemoteMember::guest).collect();
    check_names(&names, &args.fleet.order)?;
    if args.box_name.is_some() && names.len() > 1 {
        bail!("--box names one box, for one guest");
    }
    let join = |mut member: RemoteMember| {
        let name = member.guest().to_owned();
        let fails = args.fleet.fail_guest.as_ref() == Some(&name);
        member.pause_limit = Some(Duration::from_secs(args.fleet.pause_timeout));
        member.order = JoinRequest {
            box_name: args.box_name.as_ref().map(ToString::to_string),
            same_kernel,
            position: position(&args.fleet.order, &name),
            fail_at: args
                .fail_at
                .filter(|_| fails)
                .map(|step| step.name().into()),
        };
        member
    };
    Ok(members.into_iter().map(join).collect())
}

/// A guest's place in the order; none if nobody set one. Guests that are not named follow.
fn position(order: &[String], name: &str) -> Option<u32> {
    let named = order.iter().position(|other| other == name);
    let last = (!order.is_empty()).then_some(order.len());
    named.or(last).and_then(|at| u32::try_from(at).ok())
}

fn check_names(names: &[&str], order: &[String]) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(**name)) {
        bail!("Two guests are named {twice}: their boxes would be the same");
    }
    if let Some(unknown) = order.iter().find(|name| !seen.contains(name.as_str())) {
        bail!("--order names {unknown}, and there is no such guest here");
    }
    Ok(())
}

/// An interrupt cancels the update: here between the steps, and in the VMMs within one.
fn watch_for_interrupt(members: &[RemoteMember], cancel: &CancelFlag) -> anyhow::Result<()> {
    let sockets: Vec<_> = members.iter().map(RemoteMember::socket).collect();
    let cancel = cancel.clone();
    interrupt::then(move || {
        cancel.cancel();
        // Side by side: one that does not answer keeps nobody else's from being cancelled.
        for socket in sockets.clone() {
            thread::spawn(move || ask_to_cancel(&socket));
        }
    })
}

fn ask_to_cancel(socket: &Path) {
    // Whoever has no update on says so; nothing is to be done about either.
    let _ = Client::connect(socket).and_then(|mut client| {
        client.set_limit(Some(STATUS_LIMIT))?;
        client.ask(&Request::Cancel, |_| {})
    });
}

#[cfg(test)]
mod tests;
