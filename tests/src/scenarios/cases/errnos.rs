//! Every errno of every ioctl, as the header lists them.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use fdbox_lab::scenario::HostKind;
use rustix::fs::{Mode, OFlags, fstat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::{self, FdBox};
use crate::memory::{PAGE, memfd};
use crate::uapi::{self, NameArray, Named, PutFd};
use crate::{host, kvm};

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
        about: "FDBOX_PUT_FD: EFAULT EINVAL EBADF EOPNOTSUPP EBUSY EEXIST ENODEV EPERM",
        host: HostKind::OneBoot,
        stages: &[put_fd],
    },
    &Scenario {
        name: "errnos/get-fd",
        about: "FDBOX_GET_FD: EFAULT EINVAL ENOENT EBUSY EMFILE ENODEV EPERM",
        host: HostKind::OneBoot,
        stages: &[get_fd],
    },
    &Scenario {
        name: "errnos/seal",
        about: "FDBOX_SEAL and FDBOX_UNSEAL: EBUSY EINVAL EOPNOTSUPP ENODEV EPERM",
        host: HostKind::OneBoot,
        stages: &[seal],
    },
    &Scenario {
        name: "errnos/lists",
        about: "FDBOX_INFO, _NEXT_BOX, _NEXT_FD, _SEAL_ERROR: EFAULT EINVAL E2BIG ENOENT ENODEV EPERM",
        host: HostKind::OneBoot,
        stages: &[lists],
    },
    &Scenario {
        name: "errnos/unknown",
        about: "ENOTTY for every command that is not the node's",
        host: HostKind::OneBoot,
        stages: &[unknown],
    },
];

/// Where nothing is mapped.
const NOWHERE: usize = 8;

/// Arrays that are not names.
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

/// What every command with `{flags, name}` refuses: bad memory, flags, names.
fn refuses_bad_named(what: &str, node: impl AsFd, command: u32) -> Result<()> {
    let node = node.as_fd();
    fails(
        &format!("{what} at no address"),
        uapi::call_plain(node, command, NOWHERE),
        Errno::FAULT,
    )?;
    for bit in [0, 31, 32, 63] {
        let mut argument = Named {
            flags: 1 << bit,
            ..Named::new("good")
        };
        let result = uapi::call(node, command, &mut argument);
        fails(&format!("{what} with flag bit {bit}"), result, Errno::INVAL)?;
    }
    for (which, name) in wrong_names() {
        let result = uapi::call(node, command, &mut Named { flags: 0, name });
        fails(&format!("{what} of {which}"), result, Errno::INVAL)?;
    }
    Ok(())
}

fn needs_cap_sys_admin(what: &str, act: impl FnOnce() -> Result<i32, Errno> + Send) -> Result<()> {
    let result = host::without_cap_sys_admin(act)?;
    fails(
        &format!("{what} without CAP_SYS_ADMIN"),
        result,
        Errno::PERM,
    )
}

/// An open node of a box that was deleted since.
fn deleted_box(name: &str) -> Result<FdBox> {
    let fdbox = FdBox::create(name)?;
    fdbox.delete()?;
    Ok(fdbox)
}

fn create_box(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let create = |name: &str| uapi::call(&control, uapi::CREATE_BOX, &mut Named::new(name));
    let before = fdbox::info()?.boxes;
    refuses_bad_named("CREATE_BOX", &control, uapi::CREATE_BOX)?;
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
    // A name is free again at once.
    FdBox::create("errno-create")?.delete()
}

fn delete_box(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let delete = |name: &str| uapi::call(&control, uapi::DELETE_BOX, &mut Named::new(name));
    refuses_bad_named("DELETE_BOX", &control, uapi::DELETE_BOX)?;
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

fn put_fd(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-put")?;
    let file = memfd(c"errno", PAGE)?;
    let inode = fstat(&file)?.st_ino;
    let good = PutFd {
        flags: 0,
        fd: file.as_raw_fd(),
        pad: 0,
        name: NameArray::new("memory"),
    };
    let put = |mut argument: PutFd| uapi::call(&fdbox, uapi::PUT_FD, &mut argument);

    fails(
        "PUT_FD at no address",
        uapi::call_plain(&fdbox, uapi::PUT_FD, NOWHERE),
        Errno::FAULT,
    )?;
    fails(
        "PUT_FD with a flag",
        put(PutFd { flags: 1, ..good }),
        Errno::INVAL,
    )?;
    fails(
        "PUT_FD with the highest flag",
        put(PutFd {
            flags: 1 << 63,
            ..good
        }),
        Errno::INVAL,
    )?;
    fails(
        "PUT_FD with pad set",
        put(PutFd { pad: 1, ..good }),
        Errno::INVAL,
    )?;
    for (which, name) in wrong_names() {
        fails(
            &format!("PUT_FD of {which}"),
            put(PutFd { name, ..good }),
            Errno::INVAL,
        )?;
    }
    for number in [-1, 9999, i32::MAX, i32::MIN] {
        fails(
            &format!("PUT_FD of {number}"),
            put(PutFd { fd: number, ..good }),
            Errno::BADF,
        )?;
    }
    for (which, other) in other_kinds(&fdbox)? {
        let argument = PutFd {
            fd: other.as_raw_fd(),
            ..good
        };
        fails(
            &format!("PUT_FD of {which}"),
            put(argument),
            Errno::OPNOTSUPP,
        )?;
        rustix::io::fcntl_getfd(&other).with_context(|| format!("PUT_FD closed {which}"))?;
    }
    // A descriptor of a path only is not one of a file.
    let path = rustix::fs::open("/tmp", OFlags::PATH, Mode::empty())?;
    let argument = PutFd {
        fd: path.as_raw_fd(),
        ..good
    };
    fails("PUT_FD of a path", put(argument), Errno::BADF)?;
    needs_cap_sys_admin("PUT_FD", || put(good))?;
    fails(
        "PUT_FD into a deleted box",
        put_into(&deleted_box("errno-gone")?, good),
        Errno::NODEV,
    )?;

    let mut other = Some(OwnedFd::from(memfd(c"other", PAGE)?));
    let mut put_other = |name: &str| -> Result<(), Errno> {
        let fd = other.take().ok_or(Errno::BADF)?;
        fdbox.try_put(fd, name).map_err(|(error, fd)| {
            other = Some(fd);
            error
        })
    };
    put_other("taken")?;
    let named = |name: &str| PutFd {
        name: NameArray::new(name),
        ..good
    };
    fails(
        "PUT_FD of a name that is taken",
        put(named("taken")),
        Errno::EXIST,
    )?;
    fdbox.seal()?;
    fails("PUT_FD into a sealed box", put(good), Errno::BUSY)?;
    fdbox.unseal()?;

    // After all these refusals the descriptor is the caller's as before, and can be put.
    equal("The file", fstat(&file)?.st_ino, inode)?;
    equal("The number of descriptors", fdbox.entries()?.len(), 1)?;
    let number = file.as_raw_fd();
    fdbox.put(file, "memory")?;
    let argument = PutFd {
        fd: number,
        name: NameArray::new("again"),
        ..good
    };
    fails(
        "PUT_FD of a descriptor that is in the box",
        put(argument),
        Errno::BADF,
    )?;
    fdbox.delete()
}

fn put_into(fdbox: &FdBox, mut argument: PutFd) -> Result<i32, Errno> {
    uapi::call(fdbox, uapi::PUT_FD, &mut argument)
}

/// Descriptors of kinds that nobody enlightened.
fn other_kinds(fdbox: &FdBox) -> Result<Vec<(&'static str, OwnedFd)>> {
    let (pipe, _) = rustix::pipe::pipe()?;
    let (socket, _) = std::os::unix::net::UnixStream::pair()?;
    let huge = rustix::fs::memfd_create(c"huge", rustix::fs::MemfdFlags::HUGETLB)?;
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
        ("a hugetlb memfd", huge),
    ])
}

fn get_fd(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-get")?;
    refuses_bad_named("GET_FD", &fdbox, uapi::GET_FD)?;
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
    needs_cap_sys_admin("GET_FD", || get(fdbox.as_fd()))?;
    fails(
        "GET_FD from a deleted box",
        get(deleted_box("errno-gone")?.as_fd()),
        Errno::NODEV,
    )?;
    fdbox.seal()?;
    fails(
        "GET_FD from a sealed box",
        fdbox.try_get("memory"),
        Errno::BUSY,
    )?;
    fdbox.unseal()?;

    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, none)?;
    let result = fdbox.try_get("memory");
    setrlimit(Resource::Nofile, limit)?;
    fails("GET_FD without a free number", result, Errno::MFILE)?;

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

fn seal(_: &Cx<'_>) -> Result<()> {
    let fdbox = FdBox::create("errno-seal")?;
    fails("UNSEAL of an open box", fdbox.try_unseal(), Errno::INVAL)?;
    let plain = |node: BorrowedFd<'_>, command| uapi::call_plain(node, command, 0);
    needs_cap_sys_admin("SEAL", || plain(fdbox.as_fd(), uapi::SEAL))?;
    fdbox.seal()?;
    fails("SEAL of a sealed box", fdbox.try_seal(), Errno::BUSY)?;
    needs_cap_sys_admin("UNSEAL", || plain(fdbox.as_fd(), uapi::UNSEAL))?;
    fdbox.unseal()?;
    fails("UNSEAL a second time", fdbox.try_unseal(), Errno::INVAL)?;
    let gone = deleted_box("errno-gone")?;
    fails("SEAL of a deleted box", gone.try_seal(), Errno::NODEV)?;
    fails("UNSEAL of a deleted box", gone.try_unseal(), Errno::NODEV)?;

    // A guest_memfd that is not shared cannot be carried; its VM can.
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

/// What every growable struct refuses. `bytes` is a good argument, `size` the first field.
fn refuses_bad_growable(what: &str, node: BorrowedFd<'_>, command: u32, size: u32) -> Result<()> {
    fails(
        &format!("{what} at no address"),
        uapi::call_plain(node, command, NOWHERE),
        Errno::FAULT,
    )?;
    let call = |size: u32, flags: u32, tail: u8| {
        uapi::call(node, command, &mut uapi::Bytes::growable(size, flags, tail))
    };
    for small in [0, 1, 7, size - 1] {
        fails(
            &format!("{what} of {small} bytes"),
            call(small, 0, 0),
            Errno::INVAL,
        )?;
    }
    fails(
        &format!("{what} with a flag"),
        call(size, 1, 0),
        Errno::INVAL,
    )?;
    fails(
        &format!("{what} with a tail that is not zero"),
        call(size + 8, 0, 1),
        Errno::TOOBIG,
    )?;
    let larger = call(size + 8, 0, 0);
    ensure!(
        matches!(larger, Ok(_) | Err(Errno::NOENT)),
        "{what} with a tail of zeros: {larger:?}"
    );
    needs_cap_sys_admin(what, || call(size, 0, 0))
}

fn lists(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let size = size_of::<uapi::Info>() as u32;
    refuses_bad_growable("INFO", control.as_fd(), uapi::INFO, size)?;
    equal("The version of the UAPI", fdbox::info()?.uapi_version, 1)?;
    let size = size_of::<uapi::NextBox>() as u32;
    refuses_bad_growable("NEXT_BOX", control.as_fd(), uapi::NEXT_BOX, size)?;
    let mut past = fdbox::next_box(u64::MAX);
    fails(
        "NEXT_BOX past the end",
        uapi::call(&control, uapi::NEXT_BOX, &mut past),
        Errno::NOENT,
    )?;

    let fdbox = FdBox::create("errno-lists")?;
    let size = size_of::<uapi::NextFd>() as u32;
    refuses_bad_growable("NEXT_FD", fdbox.as_fd(), uapi::NEXT_FD, size)?;
    fails("NEXT_FD of an empty box", next_fd(&fdbox, 0), Errno::NOENT)?;
    let mut padded = fdbox::next_fd(0);
    padded.pad = 1;
    fails(
        "NEXT_FD with pad set",
        uapi::call(&fdbox, uapi::NEXT_FD, &mut padded),
        Errno::INVAL,
    )?;
    fdbox.put(memfd(c"errno", PAGE)?, "memory")?;
    next_fd(&fdbox, 0)?;
    fails(
        "NEXT_FD past the end",
        next_fd(&fdbox, u64::MAX),
        Errno::NOENT,
    )?;
    let size = size_of::<uapi::SealError>() as u32;
    refuses_bad_growable("SEAL_ERROR", fdbox.as_fd(), uapi::SEAL_ERROR, size)?;
    fails(
        "SEAL_ERROR of a box never sealed",
        fdbox.seal_error().map(drop),
        Errno::NOENT,
    )?;
    fdbox.delete()?;
    fails("NEXT_FD of a deleted box", next_fd(&fdbox, 0), Errno::NODEV)?;
    fails(
        "SEAL_ERROR of a deleted box",
        fdbox.seal_error().map(drop),
        Errno::NODEV,
    )
}

fn next_fd(fdbox: &FdBox, cursor: u64) -> Result<i32, Errno> {
    uapi::call(fdbox, uapi::NEXT_FD, &mut fdbox::next_fd(cursor))
}

fn unknown(_: &Cx<'_>) -> Result<()> {
    let control = fdbox::control()?;
    let fdbox = FdBox::create("errno-unknown")?;
    let on_control = [
        uapi::CREATE_BOX,
        uapi::DELETE_BOX,
        uapi::INFO,
        uapi::NEXT_BOX,
    ];
    // The commands without an argument also with size and direction in them, as _IOW has.
    for command in (0..64)
        .map(uapi::io)
        .chain([1 << 30 | uapi::io(0), uapi::io(4) | 8 << 16])
    {
        let boxes = (uapi::PUT_FD..=uapi::UNSEAL).contains(&command)
            || [uapi::NEXT_FD, uapi::SEAL_ERROR].contains(&command);
        if !on_control.contains(&command) {
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
    fdbox.delete()
}
