//! `boat`: carries the host's guests, in the kernel of a lifeboat.

use std::convert::Infallible;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context, bail};
use vmm_fdbox::boat::{BOXES_WORD, Boat, BoatError, BoatState, HostState, RESTART_WORD};
use vmm_fdbox::coordinator::{Boxes, Carrier, CarryEvent, Child, ChildError, Owner, carry};
use vmm_fdbox::lending::{Holder, LendAct};
use vmm_fdbox::update::ExitStatus;
use vmm_fdbox::{BoxError, BoxName, Control};

use crate::cli::{BoatArgs, SandboxArgs};
use crate::commands::open_files;
use crate::commands::status::words_on_host;
use crate::error::{chain, say, warn};
use crate::sandbox::User;
use crate::service::api::Client;
use crate::service::api::protocol::{Reply, Request};

pub(super) fn boat(args: &BoatArgs) -> anyhow::Result<ExitStatus> {
    open_files::raise_limit();
    let boxes = match args.boxes.is_empty() {
        true => boxes_named_by_host()?,
        false => args.boxes.clone(),
    };
    if boxes.is_empty() {
        bail!("No box is named: give one, or boot this kernel with {BOXES_WORD}=");
    }
    let silence = match args.restart_host {
        Some(seconds) => Some(seconds),
        None => named_by_host(RESTART_WORD)?
            .map(|word| {
                word.parse()
                    .with_context(|| format!("{RESTART_WORD}={word}"))
            })
            .transpose()?,
    };
    let silence = silence.map(Duration::from_secs);
    let control = Arc::new(Control::open()?);
    fs::create_dir_all(&args.run_dir)
        .with_context(|| format!("Cannot create {}", args.run_dir.display()))?;
    thread::scope(|scope| {
        scope.spawn(|| watch_host(&control, &boxes, silence));
        for name in &boxes {
            let control = &control;
            scope.spawn(move || carry_for_ever(args, control, name));
        }
    });
    Ok(ExitStatus::Done)
}

/// Between two tries with a guest.
const PAUSE: Duration = Duration::from_secs(1);

/// Between two looks at a host that may have to be restarted.
const LOOK: Duration = Duration::from_secs(1);

/// Reports on the console, which is all that an operator may have left, when the host is silent or is there again,
/// and which guests are here. Restarts a host that was silent for so long.
fn watch_host(control: &Control, boxes: &[BoxName], silence: Option<Duration>) {
    let told = Boat::open().and_then(|boat| {
        let mut has_changed = true;
        let mut restart = silence.map(Restart::after);
        loop {
            if let BoatState::Own(host) = boat.status()?.state {
                let guests = guests_here(control, boxes);
                if has_changed {
                    say(&format!("{}; {}", words_on_host(host), words_on(&guests)));
                }
                if let Some(restart) = restart.as_mut().filter(|_| !guests.is_empty()) {
                    restart.look(&boat, host);
                }
            }
            // Fails only if interrupted: the state is told once more then.
            has_changed = boat.wait(silence.map(|_| LOOK)).unwrap_or(true);
        }
    });
    // The guests are carried nevertheless.
    let Err(error): Result<Infallible, BoatError> = told;
    warn(&format!("The host is not watched: {}", chain(&error)));
}

/// When a host is restarted.
struct Restart {
    silence: Duration,
    /// Whether the module has refused it since the host beat last.
    refused: bool,
}

impl Restart {
    fn after(silence: Duration) -> Self {
        Self {
            silence,
            refused: false,
        }
    }

    fn is_due(&mut self, host: HostState) -> bool {
        match host {
            HostState::Beats => {
                self.refused = false;
                false
            }
            _ if self.refused => false,
            HostState::Panicked => true,
            HostState::Silent(silent) => silent >= self.silence,
            _ => false,
        }
    }

    fn look(&mut self, boat: &Boat, host: HostState) {
        if !self.is_due(host) {
            return;
        }
        match boat.restart(self.silence) {
            Ok(()) => say("the host is restarted in its rescue kernel"),
            Err(error) => {
                self.refused = true;
                warn(&chain(&error));
            }
        }
    }
}

fn words_on(guests: &[String]) -> String {
    match guests.is_empty() {
        true => "no guests here".into(),
        false => format!("guests here: {}", guests.join(", ")),
    }
}

fn guests_here(control: &Control, boxes: &[BoxName]) -> Vec<String> {
    let is_here = |name: &&BoxName| {
        let lent = control.lend(name, LendAct::Look);
        lent.is_ok_and(|lending| lending.holder == Holder::Boat)
    };
    boxes
        .iter()
        .filter(is_here)
        .map(ToString::to_string)
        .collect()
}

/// What the host has said by this word when it started this kernel.
fn named_by_host(name: &str) -> anyhow::Result<Option<String>> {
    let cmdline = fs::read_to_string("/proc/cmdline").context("Cannot read the command line")?;
    let mut words = cmdline.split_ascii_whitespace();
    let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(value.map(str::to_owned))
}

/// The boxes that the host has named.
fn boxes_named_by_host() -> anyhow::Result<Vec<BoxName>> {
    let names = named_by_host(BOXES_WORD)?.unwrap_or_default();
    let names = names.split(',');
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| BoxName::new(name).with_context(|| format!("{name:?} is no box")))
        .collect()
}

/// A guest may come and go more than once: as often as its host offers it.
fn carry_for_ever(args: &BoatArgs, control: &Arc<Control>, name: &BoxName) {
    let carrier = Vmms { args, control };
    let mut tell = |event: CarryEvent| match event {
        CarryEvent::Ready => say(&format!("{name}: a VMM waits for it")),
        CarryEvent::Aboard(_) => say(&format!("{name}: runs here")),
        CarryEvent::GivenBack => say(&format!("{name}: is the host's again")),
        _ => {}
    };
    loop {
        if let Err(error) = carry(control, &carrier, name, &mut tell) {
            warn(&format!("{name}: {}", chain(&error)));
        }
        // What was given back is offered until the host has taken it, and is not for this boat.
        thread::sleep(PAUSE);
    }
}

/// The VMMs of the guests here.
struct Vmms<'a> {
    args: &'a BoatArgs,
    control: &'a Control,
}

impl Vmms<'_> {
    /// In a directory of the VMM's user, if it has one.
    fn socket(&self, name: &BoxName, ending: &str) -> PathBuf {
        let mut folder = self.args.run_dir.clone();
        if self.privileges(name).user.is_some() {
            folder.push(name.to_string());
        }
        folder.join(format!("{name}{ending}"))
    }

    /// A VMM runs as the same user as in the host, unless the operator names another one.
    fn privileges(&self, name: &BoxName) -> SandboxArgs {
        let owner = self.control.owner(name).unwrap_or(Owner::ROOT);
        let Owner { uid, gid } = owner;
        let own = (uid != Owner::ROOT.uid).then_some(User { uid, gid });
        SandboxArgs {
            user: self.args.privileges.user.or(own),
            ..self.args.privileges
        }
    }

    fn command(&self, name: &BoxName) -> std::io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command
            .args(["member", "--devices-rest"])
            .arg("--api-socket")
            .arg(self.socket(name, ".sock"));
        let console = self.socket(name, ".console");
        command.arg(format!("--console=socket={}", console.display()));
        command.args(self.privileges(name).arguments());
        command.args(self.args.force.argument());
        Ok(command)
    }
}

impl Carrier for Vmms<'_> {
    fn start(&self, name: &BoxName) -> Result<(Child, UnixStream), ChildError> {
        let command = self.command(name).map_err(|source| ChildError::Spawn {
            program: "vmm-example".into(),
            source,
        })?;
        Child::spawn(command)
    }

    fn join(&self, name: &BoxName) -> Result<UnixStream, String> {
        let text = |error: &dyn std::error::Error| chain(error);
        let mut client = Client::connect(&self.socket(name, ".sock")).map_err(|e| text(&e))?;
        match client.ask(&Request::JoinUpdate {}, |_| {}) {
            Ok(Reply::Ok) => client.into_stream().map_err(|error| text(&error)),
            Ok(Reply::Error { message }) => Err(message),
            Ok(other) => Err(format!("The VMM gave an unexpected answer: {other:?}")),
            Err(error) => Err(text(&error)),
        }
    }

    fn borrow(&self, name: &BoxName) -> Result<(), BoxError> {
        self.control.borrow(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(60);
    const SHORT: HostState = HostState::Silent(Duration::from_secs(59));
    const LONG: HostState = HostState::Silent(SILENCE);

    #[test]
    fn a_host_is_restarted_when_it_was_silent_for_long_or_has_panicked() {
        let mut restart = Restart::after(SILENCE);
        assert!(!restart.is_due(HostState::Beats));
        assert!(!restart.is_due(SHORT));
        assert!(restart.is_due(LONG));
        assert!(restart.is_due(HostState::Panicked));
    }

    #[test]
    fn nothing_is_tried_again_before_the_host_has_beaten() {
        let mut restart = Restart::after(SILENCE);
        restart.refused = true;
        assert!(!restart.is_due(LONG) && !restart.is_due(HostState::Panicked));
        assert!(!restart.is_due(HostState::Beats));
        assert!(restart.is_due(LONG));
    }
}
