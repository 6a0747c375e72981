//! Checks that a home of boxes works like every other one, on the running kernel.
//!
//! ```text
//! homes fdbox           the module
//! homes holder          a keeper without a backing
//! homes luo leave       LUO; then leaves a sealed box behind, reports that, and keeps it until the kernel ends
//! homes luo find        in the next kernel: finds the box
//! ```

use std::error::Error;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::{io, thread};

use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use vmm_fdbox::coordinator::{Boxes, Owner};
use vmm_fdbox::keeper::Keeper;
use vmm_fdbox::suite::{self, Differs};
use vmm_fdbox::{AnyBox, BoxName, Control, FdName, FdState, Home};

type Done = Result<(), Box<dyn Error>>;

const BOX: &str = "crosses";
const OWNER: Owner = Owner { uid: 990, gid: 991 };
/// The file position of the memory.
const POSITION: u64 = 4711;
const PAGE: usize = 4096;
const PAGES: usize = 300;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["fdbox"] => Control::open()
            .map_err(Into::into)
            .and_then(|control| check(&control, Differs::KERNEL)),
        ["holder"] => holder(),
        ["luo", "leave"] => leave(),
        ["luo", "find"] => find(),
        _ => Err("Usage: homes fdbox | homes holder | homes luo leave | homes luo find".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("homes: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A check that fails panics and reports where.
fn check(control: &Control, differs: Differs) -> Done {
    for (what, check) in suite::checks() {
        eprintln!("{}: {what}", control.home());
        check(control, differs);
    }
    Ok(())
}

fn holder() -> Done {
    check(&Keeper::holder()?.connect()?, Differs::HOLDER)
}

fn page(number: usize) -> Vec<u8> {
    let word = u64::try_from(number)
        .unwrap_or_default()
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word.to_le_bytes().repeat(PAGE / 8)
}

fn write_page(memory: &OwnedFd, at: usize, number: usize) -> io::Result<()> {
    let written = rustix::io::pwrite(memory, &page(number), (at * PAGE) as u64)?;
    if written == PAGE {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

fn leave() -> Done {
    let control = Keeper::luo()?.connect()?;
    assert_eq!(control.home(), Home::Luo);
    check(&control, Differs::KERNEL)?;
    let name = BoxName::new(BOX)?;
    let open = control.create(&name)?;
    let memory = memfd_create("memory", MemfdFlags::CLOEXEC)?;
    for number in 0..PAGES {
        write_page(&memory, number, number)?;
    }
    seek(&memory, SeekFrom::Start(POSITION))?;
    open.put(&FdName::new("memory")?, memory.try_clone()?)?;
    open.put(
        &FdName::new("empty")?,
        memfd_create("empty", MemfdFlags::CLOEXEC)?,
    )?;
    control.give(&name, OWNER)?;
    open.seal().map_err(|failed| failed.error)?;
    // The guest continues.
    write_page(&memory, 7, PAGES)?;
    // An open box does not reach the next kernel.
    control.create(&BoxName::new("stays")?)?;
    println!("left");
    loop {
        thread::park();
    }
}

fn find() -> Done {
    let control = Keeper::luo()?.connect()?;
    let boxes = control.boxes()?;
    assert_eq!(boxes.len(), 1, "{boxes:?}");
    let name = BoxName::new(BOX)?;
    assert!(boxes[0].name == name && boxes[0].sealed && boxes[0].fds == 2);
    assert_eq!(control.owner(&name)?, OWNER);
    // The box could also go on to a further kernel.
    control.make_ready()?;
    let AnyBox::Sealed(sealed) = control.open_box(&name)? else {
        return Err("it is open".into());
    };
    for fd in sealed.fds()? {
        assert_eq!(fd.state, FdState::Live, "{fd:?}");
    }
    let open = sealed.unseal().map_err(|failed| failed.error)?;
    let memory = open.get(&FdName::new("memory")?)?;
    assert_eq!(seek(&memory, SeekFrom::Current(0))?, POSITION);
    let mut bytes = vec![0; PAGE];
    for at in 0..PAGES {
        let read = rustix::io::pread(&memory, &mut bytes, (at * PAGE) as u64)?;
        let written = if at == 7 { PAGES } else { at };
        assert!(read == PAGE && bytes == page(written), "page {at}");
    }
    let stat = rustix::fs::fstat(&memory)?;
    assert_eq!(usize::try_from(stat.st_size)?, PAGES * PAGE);
    // Only this process owns it.
    rustix::fs::ftruncate(&memory, 0)?;
    control.delete(&name)?;
    check(&control, Differs::KERNEL)
}
