//! Runs the programs that the lab uses: their output goes to a log, whose end is shown if one
//! fails.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::progress::Progress;

/// How much of a log is shown when a program fails.
const TAIL: usize = 25;

/// Runs `command` with its output going to `log`, and calls `seen` for each line of it.
pub(crate) fn logged(command: &mut Command, log: &Path, mut seen: impl FnMut(&str)) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let (reader, writer) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn().with_context(|| format!("Run {program}"))?;
    // The command has copies of the pipe's write end: they must be dropped, or reading never ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let mut file = File::options().create(true).append(true).open(log)?;
    let mut tail = std::collections::VecDeque::with_capacity(TAIL);
    for line in BufReader::new(reader).split(b'\n') {
        let line = line?;
        file.write_all(&line)?;
        file.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        seen(&line);
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let status = child.wait()?;
    if !status.success() {
        let tail: Vec<String> = tail.into();
        bail!(
            "{program}: {status}\n{}\nThe whole log: {}",
            tail.join("\n"),
            log.display()
        );
    }
    Ok(())
}

/// Runs `command` and counts the lines of its output on `progress`.
pub(crate) fn counted(command: &mut Command, log: &Path, progress: &mut Progress) -> Result<()> {
    logged(command, log, |_| progress.step())
}

/// The trimmed standard output of `command`. Fails if the command fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("Run {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {}\n{}", output.status, stderr.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Where `program` is in the PATH.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_shows_the_end_of_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut lines = 0;
        let script = "for i in $(seq 100); do echo line $i; done; echo broken >&2; exit 3";
        let error = logged(Command::new("sh").args(["-c", script]), &log, |_| {
            lines += 1
        })
        .unwrap_err()
        .to_string();
        assert_eq!(lines, 101);
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(
            error.contains("broken") && !error.contains("line 1\n"),
            "{error}"
        );
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 101);
    }
}
