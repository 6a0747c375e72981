//! Access to a box: only with a descriptor that a privileged process opened.

use std::fs::Permissions;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid, UnshareFlags};

use super::{Cx, Scenario, guest_takers};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::host;
use crate::memory::{self, PAGE, check_pages, memfd, write_pages};
use crate::uapi::{self, Named};

pub(super) const ALL: &[&Scenario] = &[
    &Scenario {
        name: "rights/passed-descriptor",
        about: "a process without any capability can use a box that it was passed, and \
                nothing else",
        host: HostKind::OneBoot,
        stages: &[passed],
    },
    &Scenario {
        name: "rights/across-a-kexec",
        about: "processes without any capability put a guest into a box, and take it out after a kexec",
        host: HostKind::Kexec,
        stages: &[before, after],
    },
    &Scenario {
        name: "rights/opening",
        about: "opening a box requires CAP_SYS_ADMIN in the first user namespace, whatever \
                the node's mode",
        host: HostKind::OneBoot,
        stages: &[opening],
    },
];

const NOBODY: u32 = 65534;

/// Another descriptor of the same open file, which is inherited through exec.
fn inheritable(fd: impl AsFd) -> Result<OwnedFd> {
    let copy = rustix::io::dup(fd)?;
    rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty())?;
    Ok(copy)
}

/// Runs a helper with descriptors of the box and of the control node that this process opened.
pub(super) fn help_with(helper: &str, fdbox: &FdBox) -> Result<()> {
    let (node, control) = (inheritable(fdbox)?, inheritable(fdbox::control()?)?);
    let argument = format!(
        "{} {} {}",
        fdbox.name,
        node.as_raw_fd(),
        control.as_raw_fd()
    );
    host::in_another_process(helper, &[&argument])
}

/// The arguments passed by [`help_with`]: the box and the control node.
pub(super) fn helped(argument: &str) -> Result<(FdBox, OwnedFd)> {
    let words: Vec<&str> = argument.split(' ').collect();
    let [name, node, control] = words[..] else {
        bail!("The argument is {argument:?}");
    };
    // SAFETY: both were opened for this process, which knows them only by these numbers.
    let [node, control] = [node.parse()?, control.parse()?]
        .map(|number: i32| unsafe { OwnedFd::from_raw_fd(number) });
    let fdbox = FdBox {
        node: node.into(),
        name: name.to_owned(),
    };
    Ok((fdbox, control))
}

/// Drops all capabilities of this process for good, and changes to another user.
fn drop_privileges() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    rustix::thread::set_no_new_privs(true)?;
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    rustix::thread::set_capabilities(None, sets)?;
    equal(
        "The effective user",
        rustix::process::geteuid().as_raw(),
        NOBODY,
    )
}

/// The descriptor as another process would receive it over a socket.
fn by_scm_rights(fd: &OwnedFd) -> Result<OwnedFd> {
    let (from, to) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    message.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        &from,
        &[IoSlice::new(b"x")],
        &mut message,
        SendFlags::empty(),
    )?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut message = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let into = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(&to, into, &mut message, RecvFlags::CMSG_CLOEXEC)?;
    let received = message.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    received.context("No descriptor came over the socket")
}

fn passed(_: &Cx<'_>) -> Result<()> {
    pass("passed")
}

/// A process without any capability uses a box that it was passed.
pub(super) fn pass(name: &str) -> Result<()> {
    let fdbox = FdBox::create(name)?;
    // According to the node's permissions anyone may open it.
    fdbox.node.set_permissions(Permissions::from_mode(0o666))?;
    let file = memfd(c"passed", 4 * PAGE)?;
    write_pages(&file, 25, 4)?;
    fdbox.put(file, "given")?;
    guest_takers::Guest::create()?.put(&fdbox)?;
    help_with("use-passed-box", &fdbox)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    fdbox.delete()
}

/// The helper `use-passed-box`: everything that a descriptor of a box allows, and what it does not.
pub(crate) fn use_passed_box(argument: &str) -> Result<()> {
    let (inherited, control) = helped(argument)?;
    drop_privileges()?;
    is_refused(&inherited, &control)?;
    let node = by_scm_rights(&inherited.node.try_clone()?.into())?;
    let fdbox = FdBox {
        node: node.into(),
        name: inherited.name.clone(),
    };
    drop(inherited);

    equal("The number of descriptors", fdbox.entries()?.len(), 3)?;
    let given = memory::file(fdbox.get("given")?);
    check_pages(&given, 25, 4)?;
    fdbox.put(given, "given")?;
    let mine = memfd(c"mine", PAGE)?;
    write_pages(&mine, 26, 1)?;
    fdbox.put(mine, "mine")?;
    fdbox.seal()?;
    fails(
        "GET_FD from a sealed box",
        fdbox.try_get("mine"),
        Errno::BUSY,
    )?;
    fdbox.unseal()?;
    fails(
        "SEAL_ERROR after a SEAL that worked",
        fdbox.seal_error().map(drop),
        Errno::NOENT,
    )?;
    check_pages(&memory::file(fdbox.get_and_keep("mine")?), 26, 1)?;
    fdbox.get("mine")?;
    fdbox.get("given")?;
    // They belong to this process: the VM works in it, and the memory belongs to that VM.
    guest_takers::take_guest_from(&fdbox)
}

/// What is possible neither with a passed box nor with a passed control node.
fn is_refused(fdbox: &FdBox, control: &OwnedFd) -> Result<()> {
    let own = format!("/proc/self/fd/{}", fdbox.node.as_raw_fd());
    for path in [fdbox::node_path(&fdbox.name), own] {
        let opened = rustix::fs::open(&path, OFlags::RDWR, Mode::empty());
        fails(&format!("Opening {path}"), opened, Errno::PERM)?;
    }
    for (what, command, name) in [
        ("CREATE_BOX", uapi::CREATE_BOX, "passed-2"),
        ("DELETE_BOX", uapi::DELETE_BOX, fdbox.name.as_str()),
    ] {
        let result = uapi::call(control, command, &mut Named::new(name));
        fails(&format!("{what} by a passed node"), result, Errno::PERM)?;
    }
    let mut info = uapi::Info {
        size: size_of::<uapi::Info>() as u32,
        ..uapi::Info::default()
    };
    let result = uapi::call(control, uapi::INFO, &mut info);
    fails("INFO by a passed node", result, Errno::PERM)?;
    let result = uapi::call(control, uapi::NEXT_BOX, &mut fdbox::next_box(0));
    fails("NEXT_BOX by a passed node", result, Errno::PERM)
}

fn before(_: &Cx<'_>) -> Result<()> {
    help_with("put-guest-and-seal", &FdBox::create("rights")?)
}

/// The helper `put-guest-and-seal`: what a VMM does before a kexec, without any capability. The VM
/// is created earlier: permission for that depends on /dev/kvm.
pub(crate) fn put_guest_and_seal(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    let guest = guest_takers::Guest::create()?;
    drop_privileges()?;
    guest.put(&fdbox)?;
    fdbox.seal()
}

fn after(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::open("rights")?;
    help_with("unseal-and-take-guest", &fdbox)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)?;
    fdbox.delete()
}

/// The helper `unseal-and-take-guest`: what a VMM does after a kexec, without any capability.
pub(crate) fn unseal_and_take_guest(argument: &str) -> Result<()> {
    let (fdbox, _control) = helped(argument)?;
    drop_privileges()?;
    fdbox.unseal()?;
    guest_takers::take_guest_from(&fdbox)
}

fn opening(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("opening")?;
    fdbox.node.set_permissions(Permissions::from_mode(0o666))?;
    let path = fdbox::node_path(&fdbox.name);
    for flags in [OFlags::RDWR, OFlags::RDONLY, OFlags::WRONLY] {
        let open = || rustix::fs::open(&path, flags, Mode::empty());
        fails(
            &format!("Opening a box with {flags:?} without CAP_SYS_ADMIN"),
            host::without_cap_sys_admin(open)?,
            Errno::PERM,
        )?;
        open().context("Open it with the capability")?;
    }
    // The lab's usual kernels do not have user namespaces; another kernel may.
    if Path::new("/proc/self/ns/user").exists() {
        help_with("be-root-of-a-namespace", &fdbox)?;
    }
    fdbox.delete()
}

/// The helper `be-root-of-a-namespace`: root in a user namespace has no privileges for boxes.
pub(crate) fn be_root_of_a_namespace(argument: &str) -> Result<()> {
    let (fdbox, control) = helped(argument)?;
    // SAFETY: this process has one thread, and no part of it depends on the user namespace.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER)? };
    let here = rustix::thread::capabilities(None)?.effective;
    ensure!(
        here.contains(CapabilitySet::SYS_ADMIN),
        "It is not root of its namespace"
    );
    is_refused(&fdbox, &control)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 0)
}
