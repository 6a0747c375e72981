//! An update whose guests continue in a lifeboat.

use std::path::absolute;
use std::time::Duration;

use anyhow::Context;
use vmm_fdbox::boat::{BoatPlan, LifeboatHost, offline_cpus, online_cpus};
use vmm_fdbox::coordinator::{Boarding, BoardingLimits, Boxes, MoveLock, RemoteLeaving};
use vmm_fdbox::update::{FleetOutcome, FleetPlan, KexecHost};
use vmm_fdbox::{BoxName, Chain};

use super::{Update, next_cmdline, next_kernel};
use crate::cli::{LifeboatArgs, LiveUpdateArgs};

/// How long a paused guest waits for the boat to take it.
const TAKE_LIMIT: Duration = Duration::from_secs(30);

impl<B: Boxes + Clone> Update<'_, B> {
    pub(super) fn run_with_lifeboat(
        &self,
        kexec: KexecHost,
        members: Vec<RemoteLeaving<B>>,
        plan: FleetPlan,
    ) -> anyhow::Result<FleetOutcome> {
        let args = &self.args.lifeboat;
        let boxes: Vec<BoxName> = members
            .iter()
            .map(|member| member.box_name().clone())
            .collect();
        let cmdline = next_cmdline(self.args.cmdline.as_deref())?;
        let mut host = LifeboatHost::new(kexec, &cmdline, boat_plan(args)?, &boxes);
        if let Some(kernel) = &args.rescue_kernel {
            let cmdline = args.rescue_cmdline.as_ref().unwrap_or(&cmdline);
            let next = next_kernel(kernel, args.rescue_initramfs.as_deref(), Some(cmdline))?;
            let kexec = KexecHost::new(next).assuming_patches(self.args.assume_patches);
            let silence = Duration::from_secs(args.rescue_after);
            host = host.rescued_by(kexec, cmdline, silence);
        }
        let move_lock = MoveLock::default();
        let limits = BoardingLimits {
            ready: Duration::from_secs(args.boat_timeout),
            take: TAKE_LIMIT,
        };
        let cpus = host.cpus();
        let board = |leaving| {
            let (output, cpus) = (self.output.clone(), cpus.clone());
            let lend = move || {
                cpus.lend_for_next()
                    .map_err(|error| Chain(&error).to_string())
            };
            Boarding::new(leaving, limits, move_lock.clone())
                .preceded_by(Box::new(lend))
                .telling(Box::new(move |name, time| output.aboard(name, time)))
        };
        let members = members.into_iter().map(board).collect();
        Ok(self.drive(&mut host, members, plan))
    }
}

fn boat_plan(args: &LifeboatArgs) -> anyhow::Result<BoatPlan> {
    let cpus = match args.lifeboat.as_deref() {
        None | Some([]) => {
            let all = [online_cpus(), offline_cpus()].concat();
            all.into_iter()
                .filter(|cpu| *cpu != 0)
                .max()
                .into_iter()
                .collect()
        }
        Some(cpus) => cpus.to_vec(),
    };
    let kernel = args
        .boat_kernel
        .as_ref()
        .context("--boat-kernel is missing")?;
    let initramfs = args
        .boat_initramfs
        .as_ref()
        .context("--boat-initramfs is missing")?;
    Ok(BoatPlan {
        kernel: absolute(kernel)?,
        initramfs: absolute(initramfs)?,
        cmdline: args.boat_cmdline.clone(),
        memory_mib: args.boat_memory,
        cpus,
        start_limit: Duration::from_secs(args.boat_timeout),
    })
}

/// Whether the guests of an update go to a lifeboat.
pub(super) fn is_asked_for(args: &LiveUpdateArgs) -> bool {
    args.lifeboat.lifeboat.is_some()
}
