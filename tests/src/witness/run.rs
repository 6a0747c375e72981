//! Commands of a system whose service the witness is.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use fdbox_lab::witness::WitnessEvent;

/// How much of a command's output is reported, the last part of it: the console is slow.
const REPORTED: usize = 4096;

/// Runs a command to its end. Its streams are one.
pub(crate) fn in_a_shell(command: &str) -> Result<WitnessEvent> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec 2>&1; {command}")]);
    let output = shell.stdin(Stdio::null()).output().context("Run a shell")?;
    let text = output.stdout.trim_ascii_end();
    let last = &text[text.len().saturating_sub(REPORTED)..];
    Ok(WitnessEvent::Ran {
        status: output.status.code().unwrap_or(-1),
        text: String::from_utf8_lossy(last).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(status: i32, text: &str) -> WitnessEvent {
        let text = text.to_owned();
        WitnessEvent::Ran { status, text }
    }

    #[test]
    fn a_command_is_reported_with_its_status_and_the_end_of_its_output() {
        let run = |command| in_a_shell(command).unwrap();
        assert_eq!(run("echo a; echo b >&2; exit 3"), ran(3, "a\nb"));
        assert_eq!(run("kill -KILL $$"), ran(-1, ""));
        let long = run("yes | head -c 10000");
        assert!(matches!(long, WitnessEvent::Ran { text, .. } if text.len() == REPORTED));
    }
}
