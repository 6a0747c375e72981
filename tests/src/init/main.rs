//! PID 1 of the emulated host: follows the lab's plan and reports what happens. Also PID 1 of a lifeboat's kernel.

mod boat;
mod child;
mod setup;

use anyhow::{Context, Result, bail};
use fdbox_lab::event::{Event, EventPort, Hello};
use fdbox_lab::kexec;
use fdbox_lab::plan::{self, Plan, Then};
use rustix::system::RebootCommand;

fn main() {
    if let Err(error) = setup::mount_all() {
        eprintln!("lab-init: {error:#}");
        return off();
    }
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if let Some(fate) = boat::fate(&cmdline) {
        return boat::run(fate);
    }
    // Without the event port there is no reader: only the console is left.
    let port = match EventPort::open() {
        Ok(port) => port,
        Err(error) => {
            eprintln!("lab-init: {error}");
            return off();
        }
    };
    let verdict = follow(&port);
    let error = verdict.err().map(|error| format!("lab-init: {error:#}"));
    let written = port
        .send(&Event::Verdict { error })
        .and_then(|()| port.drain());
    if let Err(error) = written {
        eprintln!("lab-init: no verdict could be sent: {error}");
    }
    off();
}

fn follow(port: &EventPort) -> Result<()> {
    let cmdline = std::fs::read_to_string("/proc/cmdline")?;
    let stage = plan::stage_of(&cmdline).context("The command line has no stage")?;
    port.begin()?;
    port.send(&Event::Hello(hello(stage)?))?;
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan::PATH)?)?;
    let Some(plan) = plan.stages.get(stage - 1) else {
        bail!("The plan has no stage {stage}");
    };
    for module in &plan.modules {
        setup::load_module(module)?;
    }
    for (command, text) in plan.commands.iter().enumerate() {
        port.send(&Event::Start { command })?;
        let status = child::run(text, plan.next_cmdline.as_deref(), port)?;
        port.send(&Event::Exit { command, status })?;
    }
    match &plan.then {
        Then::PowerOff => Ok(()),
        Then::CommandJumps => bail!("The last command should have jumped into another kernel"),
        Then::Shell => child::shell(),
        Then::Kexec => {
            let cmdline = plan
                .next_cmdline
                .as_deref()
                .context("The plan has no next stage")?;
            kexec::load_next(cmdline)?;
            port.send(&Event::Jump)?;
            port.drain()?;
            rustix::system::reboot(RebootCommand::Kexec).context("Jump into the next kernel")?;
            bail!("The jump into the next kernel returned");
        }
    }
}

fn hello(stage: usize) -> Result<Hello> {
    let read = |path: &str| -> Result<String> {
        let text = std::fs::read_to_string(path).with_context(|| format!("Read {path}"))?;
        Ok(text.trim().to_owned())
    };
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Ok(Hello {
        stage,
        release: read("/proc/sys/kernel/osrelease")?,
        version: read("/proc/version")?,
        boot_id: read("/proc/sys/kernel/random/boot_id")?,
        uptime_ns: uptime.tv_sec as u64 * 1_000_000_000 + uptime.tv_nsec as u64,
        tsc: fdbox_lab::tsc(),
    })
}

fn off() {
    rustix::fs::sync();
    if let Err(error) = rustix::system::reboot(RebootCommand::PowerOff) {
        eprintln!("lab-init: cannot power off: {error}");
    }
}
