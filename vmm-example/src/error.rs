//! Showing errors and results.

use std::error::Error;
use std::io::{self, Write};

use anyhow::Context;

/// An error and its causes, in one line. A cause that its error quotes already is left out.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// Tells the operator something, if anyone listens: a guest does not end because its VMM's
/// standard error is closed.
pub(crate) fn warn(message: &str) {
    let _ = writeln!(io::stderr(), "vmm-example: {message}");
}

/// Tells what came of it on standard output, if that takes it: a full disk or a pipe that nobody reads
/// changes nothing about what was done.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints what a command is there to print: without that it has done nothing.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("Cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("No such file")]
    struct Cause;

    #[derive(Debug, Error)]
    enum Outer {
        #[error("Cannot open it")]
        Plain(#[source] Cause),
        #[error("Cannot open it: {0}")]
        Quoting(#[source] Cause),
    }

    #[test]
    fn every_cause_is_shown_once() {
        let expected = "Cannot open it: No such file";
        assert_eq!(chain(&Outer::Plain(Cause)), expected);
        assert_eq!(chain(&Outer::Quoting(Cause)), expected);
        assert_eq!(chain(&Cause), "No such file");
    }
}
