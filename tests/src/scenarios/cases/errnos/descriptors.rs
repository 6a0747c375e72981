//! Errnos of the ioctls that move and seal descriptors.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::super::Cx;
use super::lists::refuses_bad_growable;
use super::{NOWHERE, deleted_box, refuses_bad_named, refuses_nowhere_last, wrong_names};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::kvm;
use crate::memory::{PAGE, memfd};
use crate::uapi::{self, NameArray, Named, PutFd};

pub(super) fn put_fd(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-put")?;
    let file = memfd(c"errno", PAGE)?;
    let inode = fstat(&file)?.st_ino;
    let good = PutFd {
        flags: 0,
        fd: file.as_raw_fd(),
        pad: 0,
        name: NameArray::new("memory"),
    };
    refuses_bad_put(&fdbox, good)?;
    refuses_other_kinds(&fdbox, good)?;
    refuses_nowhere_last("PUT_FD", fdbox.as_fd(), uapi::PUT_FD)?;
    let gone = deleted_box("errno-gone")?;
    fails("PUT_FD into a deleted box", put(&gone, good), Errno::NODEV)?;

    fdbox.put(memfd(c"other", PAGE)?, "taken")?;
    let taken = PutFd {
        name: NameArray::new("taken"),
        ..good
    };
    fails(
        "PUT_FD of a name that is taken",
        put(&fdbox, taken),
        Errno::EXIST,
    )?;
    fdbox.seal()?;
    fails("PUT_FD into a sealed box", put(&fdbox, good), Errno::BUSY)?;
    puts_in_order(&fdbox, good)?;
    fdbox.unseal()?;

    // After all these failures the caller still owns the descriptor, and can put it into a box.
    equal("The file", fstat(&file)?.st_ino, inode)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 1)?;
    fdbox.put(file, "memory")?;
    let again = PutFd {
        name: NameArray::new("again"),
        ..good
    };
    fails(
        "PUT_FD of a descriptor that is in the box",
        put(&fdbox, again),
        Errno::BADF,
    )?;
    fdbox.delete()
}

/// If two things are wrong, the error is the one that comes first in docs/uapi.md; the box is
/// sealed.
fn puts_in_order(fdbox: &FdBox, good: PutFd) -> Result<()> {
    let null = File::open("/dev/null")?;
    let (closed, null) = (9999, null.as_raw_fd());
    for (which, fd, name, errno) in [
        ("no descriptor under no name", closed, "", Errno::INVAL),
        ("no descriptor", closed, "memory", Errno::BADF),
        ("another kind", null, "memory", Errno::OPNOTSUPP),
        ("a name that is taken", good.fd, "taken", Errno::BUSY),
    ] {
        let name = NameArray::new(name);
        let result = put(fdbox, PutFd { fd, name, ..good });
        fails(
            &format!("PUT_FD of {which} into a sealed box"),
            result,
            errno,
        )?;
    }
    Ok(())
}

fn put(fdbox: &FdBox, mut argument: PutFd) -> Result<i32, Errno> {
    uapi::call(fdbox, uapi::PUT_FD, &mut argument)
}

/// Everything that can be wrong with the argument alone.
fn refuses_bad_put(fdbox: &FdBox, good: PutFd) -> Result<()> {
    let nowhere = uapi::call_plain(fdbox, uapi::PUT_FD, NOWHERE);
    fails("PUT_FD at no address", nowhere, Errno::FAULT)?;
    for flags in [1, 1 << 63] {
        let argument = PutFd { flags, ..good };
        fails(
            &format!("PUT_FD with flags {flags:#x}"),
            put(fdbox, argument),
            Errno::INVAL,
        )?;
    }
    let argument = PutFd { pad: 1, ..good };
    fails("PUT_FD with pad set", put(fdbox, argument), Errno::INVAL)?;
    for (which, name) in wrong_names() {
        let argument = PutFd { name, ..good };
        fails(
            &format!("PUT_FD of {which}"),
            put(fdbox, argument),
            Errno::INVAL,
        )?;
    }
    for fd in [-1, 9999, i32::MAX, i32::MIN] {
        let argument = PutFd { fd, ..good };
        fails(
            &format!("PUT_FD of {fd}"),
            put(fdbox, argument),
            Errno::BADF,
        )?;
    }
    // An O_PATH descriptor does not refer to an open file.
    let path = rustix::fs::open("/tmp", OFlags::PATH, Mode::empty())?;
    let argument = PutFd {
        fd: path.as_raw_fd(),
        ..good
    };
    fails("PUT_FD of a path", put(fdbox, argument), Errno::BADF)
}

/// Kinds of files that are not supported; the descriptor stays open.
fn refuses_other_kinds(fdbox: &FdBox, good: PutFd) -> Result<()> {
    for (which, other) in other_kinds(fdbox)? {
        let argument = PutFd {
            fd: other.as_raw_fd(),
            ..good
        };
        fails(
            &format!("PUT_FD of {which}"),
            put(fdbox, argument),
            Errno::OPNOTSUPP,
        )?;
        rustix::io::fcntl_getfd(&other).with_context(|| format!("PUT_FD closed {which}"))?;
    }
    Ok(())
}

/// Descriptors of unsupported kinds.
fn other_kinds(fdbox: &FdBox) -> Result<Vec<(&'static str, OwnedFd)>> {
    let (pipe, _) = rustix::pipe::pipe()?;
    let (socket, _) = std::os::unix::net::UnixStream::pair()?;
    Ok(vec![
        ("a pipe", pipe),
        ("a socket", socket.into()),
        ("/dev/null", File::open("/dev/null")?.into()),
        ("a directory", File::open("/")?.into()),
        (
            "a file of a tmpfs with a name",
            File::create("/tmp/errno")?.into(),
        ),
        ("the box itself", fdbox.node.try_clone()?.into()),
        ("the control node", fdbox::control()?.into()),
        ("/dev/kvm", File::open("/dev/kvm")?.into()),
        ("a file of a mounted hugetlbfs", unlinked_on_hugetlbfs()?),
    ])
}

/// A file of a hugetlbfs that is mounted, without a name. A memfd of huge pages is on the kernel's own.
fn unlinked_on_hugetlbfs() -> Result<OwnedFd> {
    const AT: &str = "/run/hugetlbfs";
    std::fs::create_dir_all(AT)?;
    rustix::mount::mount("none", AT, "hugetlbfs", MountFlags::empty(), None)
        .context("Mount hugetlbfs")?;
    let path = format!("{AT}/file");
    let file = File::create(&path);
    let removed = std::fs::remove_file(&path);
    rustix::mount::unmount(AT, UnmountFlags::DETACH).context("Unmount hugetlbfs")?;
    removed.context("Remove its name")?;
    Ok(file?.into())
}

pub(super) fn get_fd(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-get")?;
    refuses_bad_named("GET_FD", &fdbox, uapi::GET_FD, uapi::GET_KEEP)?;
    fails(
        "GET_FD from an empty box",
        fdbox.try_get("memory"),
        Errno::NOENT,
    )?;
    fdbox.put(memfd(c"errno", PAGE)?, "memory")?;
    fails(
        "GET_FD of another name",
        fdbox.try_get("memor"),
        Errno::NOENT,
    )?;
    let get = |node: BorrowedFd<'_>| uapi::call(node, uapi::GET_FD, &mut Named::new("memory"));
    fails(
        "GET_FD from a deleted box",
        get(deleted_box("errno-gone")?.as_fd()),
        Errno::NODEV,
    )?;
    fdbox.seal()?;
    for (name, errno) in [
        ("memory", Errno::BUSY),
        ("none", Errno::BUSY),
        ("", Errno::INVAL),
    ] {
        fails(
            &format!("GET_FD of {name:?} from a sealed box"),
            fdbox.try_get(name),
            errno,
        )?;
    }
    fdbox.unseal()?;

    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, none)?;
    let results = ["memory", "none"].map(|name| fdbox.try_get(name));
    setrlimit(Resource::Nofile, limit)?;
    let [there, none] = results;
    fails("GET_FD without a free number", there, Errno::MFILE)?;
    fails(
        "GET_FD of another name without a free number",
        none,
        Errno::NOENT,
    )?;

    let fd = fdbox.get("memory")?;
    let flags = rustix::io::fcntl_getfd(&fd)?;
    ensure!(
        flags.contains(rustix::io::FdFlags::CLOEXEC),
        "The descriptor is not close-on-exec"
    );
    fails(
        "GET_FD a second time",
        fdbox.try_get("memory"),
        Errno::NOENT,
    )?;
    fdbox.delete()
}

pub(super) fn seal(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-seal")?;
    fails("UNSEAL of an open box", fdbox.try_unseal(), Errno::INVAL)?;
    fdbox.seal()?;
    fails("SEAL of a sealed box", fdbox.try_seal(), Errno::BUSY)?;
    fdbox.unseal()?;
    fails("UNSEAL a second time", fdbox.try_unseal(), Errno::INVAL)?;
    salvage(&fdbox)?;
    let gone = deleted_box("errno-gone")?;
    fails("SEAL of a deleted box", gone.try_seal(), Errno::NODEV)?;
    fails("UNSEAL of a deleted box", gone.try_unseal(), Errno::NODEV)?;
    fails("SALVAGE of a deleted box", gone.try_salvage(), Errno::NODEV)?;

    // A guest_memfd that is not shared cannot be preserved; its VM can.
    let vm = kvm::Vm::create()?;
    fdbox.put(vm.guest_memfd(PAGE, 0)?, "private")?;
    fdbox.put(vm.into_fd(), "vm")?;
    fails(
        "SEAL with private guest memory",
        fdbox.try_seal(),
        Errno::OPNOTSUPP,
    )?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), "private".into())?;
    fdbox.delete()
}

/// Like UNSEAL with nothing lost, except for its argument.
fn salvage(fdbox: &FdBox) -> Result<()> {
    let open = fdbox.try_salvage();
    fails("SALVAGE of an open box", open, Errno::INVAL)?;
    fdbox.seal()?;
    refuses_bad_growable(
        "SALVAGE",
        fdbox.as_fd(),
        uapi::SALVAGE,
        size_of::<uapi::Salvage>() as u32,
    )?;
    let read_only = uapi::call_read_only(fdbox, uapi::SALVAGE, &fdbox::salvage())?;
    fails(
        "SALVAGE with memory that cannot be written",
        read_only,
        Errno::FAULT,
    )?;
    fails(
        "SEAL of what is sealed still",
        fdbox.try_seal(),
        Errno::BUSY,
    )?;
    equal("How much is lost", fdbox.try_salvage()?, 0)
}
