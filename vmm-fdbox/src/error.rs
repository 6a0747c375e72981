//! Errors of box operations, with explanations.

use std::error::Error;
use std::fmt;

use rustix::io::Errno;

/// A box operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Opening `/dev/fdbox/fdbox`.
    OpenControl,
    /// Connecting to a [keeper](crate::keeper).
    Connect,
    /// `FDBOX_CREATE_BOX`.
    Create,
    /// `FDBOX_DELETE_BOX`.
    Delete,
    /// Opening `/dev/fdbox/NAME`.
    OpenBox,
    /// `FDBOX_PUT_FD`.
    Put,
    /// `FDBOX_GET_FD`.
    Get,
    /// `FDBOX_SEAL`.
    Seal,
    /// `FDBOX_UNSEAL`.
    Unseal,
    /// `FDBOX_SALVAGE`.
    Salvage,
    /// `FDBOX_NEXT_BOX`, `FDBOX_NEXT_FD` or `FDBOX_NEXT_LOST`.
    List,
    /// `FDBOX_INFO`.
    Info,
    /// Claiming a box for this process.
    Claim,
    /// Changing the owner of a box.
    Give,
    /// `FDBOX_BORROW`.
    Borrow,
    /// `FDBOX_LEND`.
    Lend,
}

impl Operation {
    fn verb(self) -> &'static str {
        match self {
            Self::OpenControl | Self::OpenBox => "open",
            Self::Connect => "connect to",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Put => "put",
            Self::Get => "take",
            Self::Seal => "seal",
            Self::Unseal => "unseal",
            Self::Salvage => "salvage",
            Self::List => "list",
            Self::Info => "query",
            Self::Claim => "work on",
            Self::Give => "give away",
            Self::Borrow => "borrow",
            Self::Lend => "lend",
        }
    }
}

/// A box operation that failed. A failed operation changes nothing.
///
/// The text says what failed and what to do; [`BoxError::errno`] is for programs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Cannot {} {target}: {}", operation.verb(), self.explanation())]
pub struct BoxError {
    operation: Operation,
    target: String,
    errno: Errno,
}

impl BoxError {
    /// An error of `operation` on `target`, such as `box vm0` or `'ram' in box vm0`. For
    /// implementations of the box traits.
    pub fn new(operation: Operation, target: impl Into<String>, errno: Errno) -> Self {
        Self {
            operation,
            target: target.into(),
            errno,
        }
    }

    /// The kernel's errno.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// The operation.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// A listing that contains an invalid name.
    pub(crate) fn bad_name(target: impl Into<String>) -> Self {
        Self::new(Operation::List, target, Errno::PROTO)
    }

    fn explanation(&self) -> String {
        match explain(self.operation, self.errno) {
            Some(text) => text.to_owned(),
            None => std::io::Error::from(self.errno).to_string(),
        }
    }
}

/// An error with all its causes, on one line.
///
/// ```
/// use vmm_fdbox::{Chain, kexec::KexecError};
/// let error = KexecError::Open {
///     path: "/boot/none".into(),
///     source: std::io::Error::other("no such file"),
/// };
/// assert_eq!(Chain(&error).to_string(), "Cannot open /boot/none: no such file");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// The meaning of an errno of an operation, and what to do.
fn explain(operation: Operation, errno: Errno) -> Option<&'static str> {
    use Operation::{
        Borrow, Claim, Connect, Create, Delete, Get, Give, Lend, List, OpenBox, OpenControl, Put,
        Salvage, Seal, Unseal,
    };
    Some(match (operation, errno) {
        (OpenControl, Errno::NOENT) => "the fdbox module is not loaded: insmod fdbox.ko",
        (OpenControl | OpenBox, Errno::ACCESS) => {
            "only its owner, normally root, may: run as root or change the node's mode"
        }
        (Get, Errno::ACCESS) => {
            "the security module (LSM) does not let this program have it: allow it in the policy; it is still in the box"
        }
        (OpenBox, Errno::NOENT) => "there is no such box: list the boxes to see what there is",
        (OpenBox, Errno::BADF) => "the descriptor that was passed is not one of a box",
        (OpenBox, Errno::NXIO | Errno::NODEV) => "the box was deleted meanwhile",
        (OpenBox, Errno::BUSY) => "the box is sealed: unseal it first",
        (OpenBox, Errno::INVAL) => "the box is not sealed",
        (Connect, Errno::NOENT | Errno::PIPE) => "none is running: start one",
        (Claim, Errno::NOENT) => "there is no such box",
        (Claim, Errno::AGAIN) => {
            "another process does, an update or a resume: wait for it, or end it"
        }
        (Give, Errno::PERM) => {
            "it takes CAP_CHOWN, for the guest's next VMM to run as the same user"
        }
        (Create, Errno::EXIST) => "the name is taken: choose another or delete that box",
        (Create, Errno::NOSPC) => {
            "there are as many boxes as the module allows: delete one, or raise its parameter max_boxes"
        }
        (Create, Errno::INVAL) => "the module refuses the name: choose another",
        (Delete, Errno::NOENT) => "there is no such box",
        (Delete, Errno::BUSY) => {
            "the box is sealed, or another process works on it: unseal it first, or wait"
        }
        (Put, Errno::BADF) => "it is not an open descriptor of this process",
        (Put, Errno::OPNOTSUPP) => {
            "no module knows how to keep this kind of file: load the module for it, or leave it out"
        }
        (Put, Errno::BUSY) => "the box is sealed: unseal it first",
        (Put, Errno::EXIST) => "the name is taken in this box: choose another",
        (Put, Errno::NOSPC) => {
            "there are as many descriptors in the box as the module allows: use another box, or raise its parameter max_fds"
        }
        (Get, Errno::NOENT) => {
            "nothing in the box has this name: list the box to see what there is"
        }
        (Get, Errno::BUSY) => {
            "the box is sealed: unseal it first; of a device in an open box, other objects of its iommufd have its ids: destroy them"
        }
        (Get, Errno::AGAIN) => {
            "it depends on files that are still in the box: take out the memory first, then the iommufd, then its devices; or the host is on its way into the next kernel"
        }
        (Get, Errno::MFILE) => {
            "the process has no free descriptor number: raise its limit (ulimit -n)"
        }
        (Get, Errno::OPNOTSUPP) => {
            "it came from the last kernel and nothing here restores its kind yet: load the module for it and try again"
        }
        (Get, Errno::IO) => {
            "what the last kernel saved cannot be restored: see the kernel log; it stays in the box"
        }
        (Seal, Errno::BUSY) => {
            "it is sealed already, or one of its files is held by another sealed box or by LUO"
        }
        (Seal, Errno::NOENT) => {
            "something that a descriptor depends on is not in the box: put it in"
        }
        (Seal, Errno::OPNOTSUPP) => "a descriptor is in a state that its kind cannot carry",
        (Seal, Errno::INTR) => "the program was killed meanwhile",
        (Seal, Errno::HWPOISON) => {
            "a page of it is broken and what was in it is lost: end what used it, and boot without it"
        }
        (Get, Errno::HWPOISON) => {
            "a page of its memory broke in the last kernel, and this one cannot keep it out of use: kexec into one with CONFIG_MEMORY_FAILURE"
        }
        (Seal, Errno::FBIG) => "it is too large to hand over",
        (Seal, Errno::IO) => {
            "what the last kernel left in it is not there as it was saved, its memory or its device"
        }
        (Seal, Errno::AGAIN) => {
            "a handover of another version is being carried through this host, or the host is on its way into the next kernel: see the kernel log"
        }
        (Unseal | Lend, Errno::BUSY) => "the lifeboat has its guest: have it brought back first",
        (Borrow | Lend, Errno::NXIO) => "there is no lifeboat, or fdbox-boat.ko is not loaded",
        (Borrow, Errno::NOENT) => "the host lends no such box",
        (Borrow, Errno::EXIST) => "there is a box of this name here",
        (Borrow, Errno::AGAIN) => "what the host hands over is changing: try again",
        (Borrow, Errno::PROTO) => {
            "what the host hands over is of another version: load the fdbox.ko of the host's version"
        }
        (Lend, Errno::INVAL) => "it is not sealed, or cannot be lent in this kernel",
        (Lend, Errno::OPNOTSUPP) => {
            "it came from the last kernel and is not handed over: unseal it, and seal it again"
        }
        (Lend, Errno::STALE) => "the host has ended this lease",
        (Lend, Errno::NOSPC) => "64 boxes are lent already",
        (Unseal | Salvage, Errno::INVAL) => "it is not sealed",
        (Unseal | Salvage, Errno::AGAIN) => "the host is on its way into the next kernel",
        (Unseal, Errno::NODATA) => {
            "not all of it can be taken out: fix what each message names, or give up the box"
        }
        (List, Errno::PROTO) => "the module returned an invalid name: module and library disagree",
        (_, Errno::PIPE) => "the keeper is gone, with everything that only it had",
        (_, Errno::TIMEDOUT) => "the keeper does not answer: check what it is doing",
        (_, Errno::NODEV) => "the box was deleted meanwhile",
        (_, Errno::PERM) => "it needs CAP_SYS_ADMIN: run as root",
        (_, Errno::NOMEM) => "the kernel is out of memory: free some and try again",
        (_, Errno::TOOBIG) => {
            "it asks for something that the module does not know: load the fdbox.ko of this version"
        }
        (_, Errno::NOTTY) => {
            "the module does not know this command: load the fdbox.ko of this version"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_says_what_and_what_to_do() {
        let error = BoxError::new(Operation::OpenControl, "/dev/fdbox/fdbox", Errno::NOENT);
        assert_eq!(
            error.to_string(),
            "Cannot open /dev/fdbox/fdbox: the fdbox module is not loaded: insmod fdbox.ko"
        );
        let error = BoxError::new(Operation::Put, "'ram' in box vm0", Errno::EXIST);
        assert!(
            error
                .to_string()
                .starts_with("Cannot put 'ram' in box vm0: the name is taken")
        );
    }

    /// The errnos in the tables of docs/uapi.md for a command.
    fn documented(command: &str) -> Vec<String> {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/uapi.md");
        let docs = std::fs::read_to_string(docs).expect("docs/uapi.md");
        let heading = format!("### {command}\n");
        let section = docs.split_once(&heading).expect(command).1;
        let section = section.split("\n##").next().unwrap_or_default();
        let first = |line: &str| Some(line.strip_prefix("| `E")?.split_once('`')?.0.to_owned());
        section.lines().filter_map(first).collect()
    }

    #[test]
    fn every_documented_errno_is_explained() {
        let errnos = [
            ("ACCES", Errno::ACCESS),
            ("AGAIN", Errno::AGAIN),
            ("BADF", Errno::BADF),
            ("BUSY", Errno::BUSY),
            ("EXIST", Errno::EXIST),
            ("FBIG", Errno::FBIG),
            ("HWPOISON", Errno::HWPOISON),
            ("INTR", Errno::INTR),
            ("INVAL", Errno::INVAL),
            ("IO", Errno::IO),
            ("MFILE", Errno::MFILE),
            ("NODATA", Errno::NODATA),
            ("NOENT", Errno::NOENT),
            ("NOSPC", Errno::NOSPC),
            ("NXIO", Errno::NXIO),
            ("PROTO", Errno::PROTO),
            ("STALE", Errno::STALE),
            ("OPNOTSUPP", Errno::OPNOTSUPP),
        ];
        let mut seen = 0;
        for (operation, command) in [
            (Operation::Create, "FDBOX_CREATE_BOX"),
            (Operation::Delete, "FDBOX_DELETE_BOX"),
            (Operation::Put, "FDBOX_PUT_FD"),
            (Operation::Get, "FDBOX_GET_FD"),
            (Operation::Seal, "FDBOX_SEAL"),
            (Operation::Unseal, "FDBOX_UNSEAL"),
            (Operation::Salvage, "FDBOX_SALVAGE"),
            (Operation::Borrow, "FDBOX_BORROW"),
            (Operation::Lend, "FDBOX_LEND"),
        ] {
            for name in documented(command) {
                let errno = errnos.iter().find(|(known, _)| *known == name);
                let (_, errno) = errno.unwrap_or_else(|| panic!("which errno is E{name}?"));
                let text = explain(operation, *errno);
                assert!(text.is_some(), "{command}: E{name} is not explained");
                seen += 1;
            }
        }
        assert!(seen >= 20, "only {seen} errnos found in docs/uapi.md");
    }

    #[test]
    fn an_unexpected_errno_keeps_its_own_text() {
        let error = BoxError::new(Operation::Info, "fdbox", Errno::XDEV);
        assert!(error.to_string().contains("os error 18"), "{error}");
    }
}
