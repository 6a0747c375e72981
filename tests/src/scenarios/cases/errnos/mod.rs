//! Every errno of every ioctl that the header lists.
//!
//! Exceptions: GET_FD's EOPNOTSUPP and EIO and SEAL's EFBIG, which require another driver, are in
//! `sample`; UNSEAL's ENODATA is in `sample` and `forged`; SEAL's ENOENT in `guest_memory`, its
//! EAGAIN in `forged` and, with that of UNSEAL, in `leaving`; GET_FD's EAGAIN and its EBUSY for ids
//! in `passthrough`; EPERM on opening a box in `rights`.

mod descriptors;
mod limits;
mod lists;

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Result;
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::uapi::{self, NameArray, Named};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "errnos/create-box",
        about: "FDBOX_CREATE_BOX: EFAULT EINVAL EEXIST EPERM",
        host: HostKind::OneBoot,
        stages: &[create_box],
    },
    &Scenario {
        name: "errnos/delete-box",
        about: "FDBOX_DELETE_BOX: EFAULT EINVAL ENOENT EBUSY EPERM",
        host: HostKind::OneBoot,
        stages: &[delete_box],
    },
    &Scenario {
        name: "errnos/put-fd",
        about: "FDBOX_PUT_FD: EFAULT EINVAL EBADF EOPNOTSUPP EBUSY EEXIST ENODEV",
        host: HostKind::OneBoot,
        stages: &[descriptors::put_fd],
    },
    &Scenario {
        name: "errnos/get-fd",
        about: "FDBOX_GET_FD: EFAULT EINVAL ENOENT EBUSY EMFILE ENODEV",
        host: HostKind::OneBoot,
        stages: &[descriptors::get_fd],
    },
    &Scenario {
        name: "errnos/seal",
        about: "FDBOX_SEAL, _UNSEAL, _SALVAGE: EBUSY EINVAL EOPNOTSUPP ENODEV EFAULT E2BIG",
        host: HostKind::OneBoot,
        stages: &[descriptors::seal],
    },
    &Scenario {
        name: "errnos/lists",
        about: "FDBOX_INFO, _NEXT_BOX, _NEXT_FD, _SEAL_ERROR, _NEXT_LOST: EFAULT EINVAL E2BIG ENOENT ENODEV EPERM",
        host: HostKind::OneBoot,
        stages: &[lists::lists],
    },
    &Scenario {
        name: "errnos/no-space",
        about: "FDBOX_CREATE_BOX: ENOSPC",
        host: HostKind::OneBoot,
        stages: &[limits::no_space],
    },
    &Scenario {
        name: "errnos/no-space-in-box",
        about: "FDBOX_PUT_FD: ENOSPC",
        host: HostKind::OneBoot,
        stages: &[limits::no_space_in_box],
    },
    &Scenario {
        name: "errnos/no-memory",
        about: "FDBOX_SEAL: ENOMEM for holes that the host has no memory for; no process is \
                killed for them",
        host: HostKind::OneBoot,
        stages: &[limits::no_memory],
    },
    &Scenario {
        name: "errnos/no-memory-for-all",
        about: "FDBOX_SEAL: ENOMEM for files whose holes are too large in total",
        host: HostKind::OneBoot,
        stages: &[limits::no_memory_for_all],
    },
    &Scenario {
        name: "errnos/unknown",
        about: "ENOTTY for every command that the node does not support",
        host: HostKind::OneBoot,
        stages: &[unknown],
    },
];

/// An address where nothing is mapped.
const NOWHERE: usize = 8;

/// Arrays that are not valid names.
fn wrong_names() -> Vec<(&'static str, NameArray)> {
    vec![
        ("the empty name", NameArray::new("")),
        (".", NameArray::new(".")),
        ("..", NameArray::new("..")),
        ("a name with a slash", NameArray::new("a/b")),
        ("a slash", NameArray::new("/")),
        ("a name without NUL", NameArray::of_bytes(&[b'x'; 256])),
    ]
}

/// All errors of a struct with flags and a name, whose command supports the `known` flags.
fn refuses_bad_named(what: &str, node: impl AsFd, command: u32, known: u64) -> Result<()> {
    let node = node.as_fd();
    fails(
        &format!("{what} at no address"),
        uapi::call_plain(node, command, NOWHERE),
        Errno::FAULT,
    )?;
    for bit in [0, 1, 31, 32, 63] {
        if known & 1 << bit != 0 {
            continue;
        }
        let mut argument = Named {
            flags: known | 1 << bit,
            ..Named::new("good")
        };
        let result = uapi::call(node, command, &mut argument);
        fails(&format!("{what} with flag bit {bit}"), result, Errno::INVAL)?;
    }
    for (which, name) in wrong_names() {
        let result = uapi::call(node, command, &mut Named { flags: 0, name });
        fails(&format!("{what} of {which}"), result, Errno::INVAL)?;
    }
    refuses_nowhere_last(what, node, command)
}

/// If two things are wrong, the error is the one that comes first in docs/uapi.md.
fn refuses_nowhere_last(what: &str, node: BorrowedFd<'_>, command: u32) -> Result<()> {
    let nowhere = || uapi::call_plain(node, command, NOWHERE);
    if ON_CONTROL.contains(&command) {
        return needs_cap_sys_admin(what, nowhere);
    }
    // The process that opened the box had the capability: that is sufficient.
    fails(
        &format!("{what} at no address without CAP_SYS_ADMIN"),
        host::without_cap_sys_admin(nowhere)?,
        Errno::FAULT,
    )
}

/// The commands of the control node.
const ON_CONTROL: [u32; 5] = [
    uapi::CREATE_BOX,
    uapi::DELETE_BOX,
    uapi::INFO,
    uapi::NEXT_BOX,
    uapi::BORROW,
];

fn needs_cap_sys_admin(what: &str, act: impl FnOnce() -> Result<i32, Errno> + Send) -> Result<()> {
    let result = host::without_cap_sys_admin(act)?;
    fails(
        &format!("{what} without CAP_SYS_ADMIN"),
        result,
        Errno::PERM,
    )
}

/// An open node of a box that has been deleted.
fn deleted_box(name: &str) -> Result<FdBox> {
    let fdbox = FdBox::create(name)?;
    fdbox.delete()?;
    Ok(fdbox)
}

fn create_box(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let create = |name: &str| uapi::call(&control, uapi::CREATE_BOX, &mut Named::new(name));
    let before = fdbox::info()?.boxes;
    refuses_bad_named("CREATE_BOX", &control, uapi::CREATE_BOX, 0)?;
    fails("CREATE_BOX of fdbox", create("fdbox"), Errno::EXIST)?;
    let fdbox = FdBox::create("errno-create")?;
    fails(
        "CREATE_BOX of a name that is taken",
        create("errno-create"),
        Errno::EXIST,
    )?;
    needs_cap_sys_admin("CREATE_BOX", || create("errno-create-2"))?;
    equal("The number of boxes", fdbox::info()?.boxes, before + 1)?;
    fdbox.delete()?;
    // A name is available again at once.
    FdBox::create("errno-create")?.delete()
}

fn delete_box(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let delete = |name: &str| uapi::call(&control, uapi::DELETE_BOX, &mut Named::new(name));
    refuses_bad_named("DELETE_BOX", &control, uapi::DELETE_BOX, 0)?;
    fails("DELETE_BOX of no box", delete("errno-none"), Errno::NOENT)?;
    fails(
        "DELETE_BOX of the control node",
        delete("fdbox"),
        Errno::NOENT,
    )?;
    let fdbox = FdBox::create("errno-delete")?;
    fdbox.seal()?;
    fails(
        "DELETE_BOX of a sealed box",
        delete("errno-delete"),
        Errno::BUSY,
    )?;
    equal(
        "The box in the list",
        fdbox::listed("errno-delete")?.is_some(),
        true,
    )?;
    fdbox.unseal()?;
    needs_cap_sys_admin("DELETE_BOX", || delete("errno-delete"))?;
    fdbox.delete()?;
    fails(
        "DELETE_BOX a second time",
        delete("errno-delete"),
        Errno::NOENT,
    )
}

fn unknown(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let fdbox = FdBox::create("errno-unknown")?;
    // Commands without an argument also with size and direction encoded, as by _IOW.
    for command in (0..64)
        .map(uapi::io)
        .chain([1 << 30 | uapi::io(0), uapi::io(4) | 8 << 16])
    {
        let boxes = (uapi::PUT_FD..=uapi::UNSEAL).contains(&command)
            || [
                uapi::NEXT_FD,
                uapi::SEAL_ERROR,
                uapi::NEXT_LOST,
                uapi::SALVAGE,
                uapi::LEND,
            ]
            .contains(&command);
        if !ON_CONTROL.contains(&command) {
            let result = uapi::call_plain(&control, command, 0);
            fails(
                &format!("{command:#x} on the control node"),
                result,
                Errno::NOTTY,
            )?;
        }
        if !boxes {
            let result = uapi::call_plain(&fdbox, command, 0);
            fails(&format!("{command:#x} on a box"), result, Errno::NOTTY)?;
        }
    }
    // Unprivileged processes get the same error.
    for node in [control.as_fd(), fdbox.as_fd()] {
        let call = || uapi::call_plain(node, uapi::io(63), 0);
        let result = host::without_cap_sys_admin(call)?;
        fails("63 without CAP_SYS_ADMIN", result, Errno::NOTTY)?;
    }
    fdbox.delete()
}
