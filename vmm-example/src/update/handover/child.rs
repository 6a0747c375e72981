//! The new process, as the old one sees it.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::link::{Link, LinkError};

/// A child that does not outlive this value, unless it is let go.
#[derive(Debug)]
pub(super) struct Successive {
    child: Option<Child>,
    pub(super) link: Link,
}

impl Successive {
    /// Starts `command` with the other end of a link as its standard input.
    pub(super) fn start(mut command: Command) -> Result<Self, StartError> {
        let (link, other) = Link::pair()?;
        command.stdin(Stdio::from(other));
        let child = command.spawn().map_err(StartError::Spawn)?;
        // The command holds the other end: without it the child's death is heard of.
        drop(command);
        Ok(Self {
            child: Some(child),
            link,
        })
    }

    /// Lets the child live on; it is nobody's child soon.
    pub(super) fn let_go(&mut self) {
        self.child = None;
    }

    /// Ends the child for good and says how it ended.
    pub(super) fn end(&mut self) -> Option<String> {
        let mut child = self.child.take()?;
        // What has ended cannot be killed, which is all that can go wrong.
        let _ = child.kill();
        child.wait().ok().map(describe)
    }

    /// How the child ended, which it is about to.
    pub(super) fn reap(&mut self) -> Option<String> {
        let mut child = self.child.take()?;
        child.wait().ok().map(describe)
    }
}

impl Drop for Successive {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with status {code}"),
        (None, Some(signal)) => format!("it was killed by signal {signal}"),
        (None, None) => "it ended".into(),
    }
}

/// Why there is no new process.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("Cannot start the new binary")]
    Spawn(#[source] io::Error),
}
