//! Output of errors and results.

use std::borrow::Cow;
use std::error::Error;
use std::io::{self, Write};

use anyhow::Context;

/// An error and its causes, on one line. A cause that is already quoted by its error is left out.
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

/// Text that is safe for a terminal: a compromised VMM can choose its guest's name and its error
/// messages, which root reads. Escaped as in JSON.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if !text.contains(acts) {
        return text.into();
    }
    let shown = |c: char| match acts(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.into(),
    };
    text.chars().map(shown).collect()
}

/// Shows a warning to the operator, if anyone reads it: a guest does not end because its VMM's
/// standard error is closed.
pub(crate) fn warn(message: &str) {
    let _ = writeln!(io::stderr(), "vmm-example: {}", printable(message));
}

/// Reports a result on standard output, if possible: a full disk or a closed pipe does not change
/// what was done.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{}", printable(line));
}

/// Prints the output of a command; if that fails, so does the command.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(printable(text).as_bytes())
        .and_then(|()| out.flush());
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
    fn what_a_terminal_would_act_upon_is_shown() {
        assert!(matches!(printable("vm0:\tréady\n"), Cow::Borrowed(_)));
        let name = "vm0\x1b]0;root\x07\r\u{9b}2J\x7f";
        assert_eq!(
            printable(name),
            r"vm0\u001b]0;root\u0007\u000d\u009b2J\u007f"
        );
        // As JSON, it is the same text.
        let line = serde_json::to_string("\u{9b}2J").unwrap();
        let read: String = serde_json::from_str(&printable(&line)).unwrap();
        assert_eq!(read, "\u{9b}2J");
    }

    #[test]
    fn every_cause_is_shown_once() {
        let expected = "Cannot open it: No such file";
        assert_eq!(chain(&Outer::Plain(Cause)), expected);
        assert_eq!(chain(&Outer::Quoting(Cause)), expected);
        assert_eq!(chain(&Cause), "No such file");
    }
}
