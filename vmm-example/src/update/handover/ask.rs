//! Asking another binary whether it would read this one's state.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use vmm_fdbox::Finding;
use vmm_fdbox::frame::Description;

use super::{VERSION, Verdict};

/// The longest answer in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// What keeps `binary` from taking a guest over whose state is as described. Changes nothing.
pub(super) fn ask(binary: &Path, described: &Description, limit: Duration) -> Vec<Finding> {
    let refuse = |problem: String, remedy: &str| {
        let subject = format!("Binary {}", binary.display());
        vec![Finding::blocker(subject, problem, remedy)]
    };
    let child = match start(binary) {
        Ok(child) => child,
        Err(error) => {
            return refuse(
                format!("it cannot be started ({error})"),
                "name an executable file for this host's architecture",
            );
        }
    };
    let answer = match converse(child, described, limit) {
        Ok(answer) => answer,
        Err(problem) => return refuse(problem, "name a build of this VMM that works"),
    };
    match serde_json::from_str::<Verdict>(&answer) {
        Ok(verdict) if verdict.handover == VERSION => verdict.findings,
        Ok(verdict) => refuse(
            format!(
                "{} speaks version {} of the handover, this one {VERSION}",
                verdict.program, verdict.handover
            ),
            "name a binary of a version in between",
        ),
        Err(_) => refuse(
            "it gives no answer that makes sense to `check-state`".into(),
            "name a build of this VMM that has the command",
        ),
    }
}

fn start(binary: &Path) -> io::Result<Child> {
    Command::new(binary)
        .args(["check-state", "--sections", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
}

/// Tells the child what there is and returns what it says, if that is in time.
fn converse(mut child: Child, described: &Description, limit: Duration) -> Result<String, String> {
    let deadline = Instant::now() + limit;
    let question = serde_json::to_vec(described).map_err(|error| error.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        // Less than a pipe holds. Who does not read it gives no answer either.
        let _ = stdin.write_all(&question);
    }
    let (send, answer) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Ends with the child, which is killed below.
        thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(MAX_ANSWER).read_to_string(&mut text);
            let _ = send.send(read.map(|_| text));
        });
    }
    let answer = answer.recv_timeout(limit);
    let ended = wait(&mut child, deadline);
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!(
            "it does not answer within {} s",
            limit.as_secs_f64()
        ));
    }
    match answer {
        Ok(Ok(text)) => Ok(text),
        _ => Err("its answer cannot be read".into()),
    }
}

fn wait(child: &mut Child, deadline: Instant) -> bool {
    loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
            Ok(status) => return status.is_some(),
            Err(_) => return false,
        }
    }
}
