//! Another build of this VMM that takes over a guest in this kernel, as the user of the old one.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf, absolute};
use std::process::{Command, Stdio};
use std::time::Duration;

use vmm_fdbox::coordinator::{Child, ChildError};
use vmm_fdbox::frame::Description;
use vmm_fdbox::member::VERSION;
use vmm_fdbox::update::{Host, PartyError, SameHost, Step};
use vmm_fdbox::{Deadline, Finding};

use super::guests::Guest;
use crate::cli::LiveUpdateArgs;
use crate::commands::answer::hear;
use crate::commands::check_state::Verdict;
use crate::error::chain;
use crate::identity::Identity;
use crate::sandbox::Level;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Successor {
    binary: PathBuf,
    /// The description of the old VMM's state.
    state: Description,
    identity: Identity,
    /// What the new VMM drops.
    sandbox: Level,
    /// An option for its command line.
    force: Option<&'static str>,
    /// How long each of its answers may take.
    pub(super) limit: Duration,
    /// The step at which it is made to fail.
    pub(super) fail_at: Option<Step>,
}

/// Starts the new VMM.
type Start = Box<dyn FnMut() -> Result<(Child, UnixStream), ChildError> + Send>;

impl Successor {
    /// Describes the VMM that the guest moves to.
    pub(super) fn new(
        binary: &Path,
        guest: &mut Guest,
        args: &LiveUpdateArgs,
    ) -> anyhow::Result<Self> {
        let state = guest.describe_state()?;
        let identity = guest.identity()?;
        Ok(Self {
            binary: absolute(binary)?,
            state,
            sandbox: args.sandbox.unwrap_or_else(|| identity.sandbox()),
            identity,
            force: args.force.argument(),
            limit: Duration::from_secs(args.timeout),
            fail_at: args.fail_at.filter(|step| *step > Step::Jump),
        })
    }

    pub(super) fn start(&self) -> Start {
        let (binary, identity, force) = (self.binary.clone(), self.identity.clone(), self.force);
        let sandbox = self.sandbox.argument();
        Box::new(move || {
            let mut command = Command::new(&binary);
            command.args(["member", &sandbox]).args(force);
            identity.give(&mut command);
            let started = Child::spawn(command)?;
            identity.account(started.0.id());
            Ok(started)
        })
    }

    /// Asks the binary whether it can read the state. Returns its answer, or why there is none.
    fn converse(&self) -> Result<String, Unfit> {
        let mut command = Command::new(&self.binary);
        command.args(["check-state", "--sections", "-"]);
        self.identity.give(&mut command);
        let (answer, theirs) = UnixStream::pair().map_err(Unfit::start)?;
        let theirs = Stdio::from(OwnedFd::from(theirs));
        command.stdout(theirs).stderr(Stdio::null());
        let (mut child, question) = Child::spawn(command).map_err(|error| match error {
            ChildError::Spawn { source, .. } => Unfit::start(source),
            error => Unfit::start(io::Error::other(chain(&error))),
        })?;
        let deadline = Deadline::within(self.limit);
        self.ask(&question);
        let text = hear(answer, deadline);
        if child.wait(deadline).is_none() {
            let ended = child.kill();
            let secs = self.limit.as_secs_f64();
            return Err(Unfit::answer(format!(
                "it does not answer within {secs} s ({ended})"
            )));
        }
        text.map_err(|error| Unfit::answer(format!("its answer cannot be read ({error})")))
    }

    /// A binary that does not read the question gives no answer either.
    fn ask(&self, mut socket: &UnixStream) {
        let asked = serde_json::to_vec(&self.state).map(|question| {
            let _ = socket.set_write_timeout(Some(self.limit));
            let _ = socket.write_all(&question);
        });
        drop(asked);
        let _ = socket.shutdown(Shutdown::Write);
    }
}

/// Why a binary cannot be used, and what to do about it.
struct Unfit {
    problem: String,
    remedy: &'static str,
}

impl Unfit {
    fn start(error: io::Error) -> Self {
        Self {
            problem: format!("it cannot be started ({error})"),
            remedy: "name an executable file for this host's architecture",
        }
    }

    fn answer(problem: String) -> Self {
        Self {
            problem,
            remedy: "name a build of this VMM that works",
        }
    }
}

impl Host for Successor {
    /// The reasons why the binary cannot take over the guest. Changes nothing.
    fn preflight(&mut self) -> Vec<Finding> {
        let unfit = match self
            .converse()
            .map(|text| serde_json::from_str::<Verdict>(&text))
        {
            Ok(Ok(verdict)) if verdict.handover == VERSION => return verdict.findings,
            Ok(Ok(verdict)) => Unfit {
                problem: format!(
                    "{} speaks version {} of the handover, this one {VERSION}",
                    verdict.program, verdict.handover
                ),
                remedy: "name a binary of a version in between",
            },
            Ok(Err(_)) => Unfit {
                problem: "it gives no valid answer to `check-state`".into(),
                remedy: "name a build of this VMM that has the command",
            },
            Err(unfit) => unfit,
        };
        let subject = format!("Binary {}", self.binary.display());
        vec![Finding::blocker(subject, unfit.problem, unfit.remedy)]
    }

    fn leaves_kernel(&self) -> bool {
        SameHost.leaves_kernel()
    }

    fn jump(&mut self, deadline: Deadline) -> Result<(), PartyError> {
        SameHost.jump(deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::guest::state;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("binary");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn asked(binary: &Path) -> Vec<String> {
        let mut successor = Successor {
            binary: binary.into(),
            state: state::description(&[]),
            identity: Identity::of(std::process::id()).unwrap(),
            sandbox: Level::On,
            force: None,
            limit: Duration::from_millis(500),
            fail_at: None,
        };
        let found = successor.preflight();
        assert!(found.iter().all(Finding::is_blocker));
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_binary_that_reads_the_state_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let answer = r#"{"program":"x 1","handover":1,"findings":[]}"#;
        let path = script(dir.path(), &format!("cat >&2; echo '{answer}'"));
        assert_eq!(asked(&path), Vec::<String>::new());
    }

    #[test]
    fn what_a_binary_finds_is_passed_on() {
        let dir = tempfile::tempdir().unwrap();
        let findings = serde_json::to_string(&[Finding::blocker("Section 'npu'", "no", "none")]);
        let answer = format!(
            r#"{{"program":"x 1","handover":1,"findings":{}}}"#,
            findings.unwrap()
        );
        let path = script(dir.path(), &format!("cat <<E\n{answer}\nE\nexit 10"));
        assert_eq!(asked(&path), ["Section 'npu': no: none"]);
    }

    #[test]
    fn a_binary_of_no_use_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let not_executable = dir.path().join("file");
        fs::write(&not_executable, "x").unwrap();
        let cases = [
            (missing, "No such file"),
            (not_executable, "Permission denied"),
            (script(dir.path(), "exit 3"), "no valid answer"),
        ];
        for (path, reason) in cases {
            let found = asked(&path);
            assert!(found[0].contains(reason), "{found:?}");
        }
        // A process that closes its ends of the pipes and lives on counts as hung as well.
        for hung in ["exec sleep 60", "exec sleep 60 <&- >&-"] {
            let found = asked(&script(dir.path(), hung));
            assert!(
                found[0].contains("does not answer within 0.5 s"),
                "{found:?}"
            );
        }
        let answer = r#"{"program":"x 1","handover":7,"findings":[]}"#;
        let found = asked(&script(dir.path(), &format!("echo '{answer}'")));
        assert!(found[0].contains("speaks version 7"), "{found:?}");
    }
}
