//! The process of one guest, as `resume --all` sees it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use vmm_fdbox::BoxName;
use vmm_fdbox::update::ExitStatus;

use super::Said;
use super::report::GuestEnd;
use crate::cli::ResumeArgs;
use crate::service::report::ResumeReport;

/// What a guest's process is at.
#[derive(Debug)]
enum State {
    /// It reads the state.
    Silent,
    /// It waits for its turn.
    Waits(Option<u32>),
    /// It rebuilds the guest.
    On,
    /// The guest runs.
    Entered,
    /// And it has said how that went.
    Runs(Box<ResumeReport>),
    Failed(String),
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    process: Option<process::Child>,
    turn: Option<ChildStdin>,
    position: Option<u32>,
    state: State,
    /// When the whole resume began.
    began: Instant,
    /// How long after that the guest ran.
    ran_after: Option<Duration>,
}

impl Child {
    /// Starts to resume the guest of a box; `listen` gets what it says.
    pub(super) fn spawn(
        name: &BoxName,
        args: &ResumeArgs,
        began: Instant,
        listen: impl FnOnce(Box<dyn BufRead + Send>),
    ) -> Self {
        let mut child = Self {
            name: name.to_string(),
            process: None,
            turn: None,
            position: None,
            state: State::Silent,
            began,
            ran_after: None,
        };
        match command(name, args).and_then(|mut command| command.spawn()) {
            Ok(mut process) => {
                child.turn = process.stdin.take();
                if let Some(out) = process.stdout.take() {
                    listen(Box::new(BufReader::new(out)));
                }
                child.process = Some(process);
            }
            Err(error) => child.state = State::Failed(format!("Cannot start its VMM: {error}")),
        }
        child
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self.state, State::Silent)
    }

    pub(super) fn is_on(&self) -> bool {
        matches!(self.state, State::On)
    }

    /// Whether its guest runs and it has not said how that went.
    pub(super) fn owes_report(&self) -> bool {
        matches!(self.state, State::Entered)
    }

    /// Its place in the order, if it waits for its turn.
    pub(super) fn place(&self) -> Option<Option<u32>> {
        match self.state {
            State::Waits(position) => Some(position),
            _ => None,
        }
    }

    /// Gives it its turn.
    pub(super) fn go(&mut self) {
        self.state = State::On;
        if let Some(mut turn) = self.turn.take() {
            // It goes on as well when this is closed.
            let _ = turn.write_all(b"go\n");
        }
    }

    pub(super) fn said(&mut self, said: Said) {
        self.state = match said {
            Said::Ready { position } => {
                self.position = position;
                State::Waits(position)
            }
            Said::Entered => {
                self.ran_after = Some(self.began.elapsed());
                State::Entered
            }
            Said::Runs { report } => State::Runs(report),
            Said::Failed { message } => State::Failed(message),
        };
    }

    /// It says nothing more.
    pub(super) fn ended(&mut self) {
        if !matches!(self.state, State::Runs(_) | State::Failed(_)) {
            let message = "Its VMM ended before it reported; see what it wrote to standard error";
            self.state = State::Failed(message.into());
        }
    }

    /// How it went. A process whose guest runs is left alone.
    pub(super) fn finish(self) -> GuestEnd {
        let failed = |message: String, process: Option<process::Child>| {
            let code = process.and_then(|mut process| process.wait().ok()?.code());
            // A process that was killed leaves everything in its box.
            let status = code.and_then(status).unwrap_or(ExitStatus::NothingChanged);
            (None, Some(message), status)
        };
        let (report, message, status) = match self.state {
            State::Runs(report) => (Some(report), None, ExitStatus::Done),
            State::Failed(message) => failed(message, self.process),
            _ => failed("It was not resumed".into(), None),
        };
        GuestEnd {
            name: self.name,
            position: self.position,
            ran_after_ns: self.ran_after.map(|time| time.as_nanos() as u64),
            exit_status: status.code(),
            error: message,
            report,
        }
    }
}

fn status(code: i32) -> Option<ExitStatus> {
    let failures = [ExitStatus::Error, ExitStatus::NothingChanged];
    failures
        .into_iter()
        .find(|status| i32::from(status.code()) == code)
}

fn command(name: &BoxName, args: &ResumeArgs) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    if args.all.from_initramfs {
        // systemd spares processes whose first argument begins so when it leaves an initramfs.
        command.arg0("@vmm-example");
    }
    let at = |ending| args.all.run_dir.join(format!("{name}{ending}"));
    command.args(["resume", "--supervised", "--box", &name.to_string()]);
    command.arg("--api-socket").arg(at(".sock"));
    command.arg(format!("--console=socket={}", at(".console").display()));
    if let Some(seconds) = args.init_uptime {
        command.arg(format!("--init-uptime={seconds}"));
    }
    if let Some(step) = args.fail_at {
        command.args(["--fail-at", step.name()]);
    }
    if let Some(dir) = args.report.as_ref().filter(|path| path.is_dir()) {
        command.arg("--report").arg(dir);
    }
    // Of its own group: an interrupt of this process is none of the guest's business.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command.process_group(0);
    Ok(command)
}

#[cfg(test)]
impl Child {
    /// A child that only is said to say things.
    pub(super) fn fake(name: &str) -> Self {
        Self {
            name: name.into(),
            process: None,
            turn: None,
            position: None,
            state: State::Silent,
            began: Instant::now(),
            ran_after: None,
        }
    }
}
