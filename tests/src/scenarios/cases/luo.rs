//! Together with LUO, which can preserve files too: whichever of the two is first gets the file.

use anyhow::Result;
use fdbox_lab::scenario::HostKind;
use rustix::io::Errno;

use super::{Cx, Scenario};
use crate::check::{equal, fails};
use crate::fdbox::FdBox;
use crate::luo::Session;
use crate::memory::{PAGE, check_pages, memfd, write_pages};
use crate::{memory, uapi};

pub(super) const ALL: &[&Scenario] = &[&Scenario {
    name: "luo/one-holder",
    about: "a memfd that a sealed box or LUO preserves is refused to the other until it \
                is released",
    host: HostKind::OneBoot,
    stages: &[one_holder],
}];

fn one_holder(_: &Cx<'_>) -> Result<()> {
    let file = memfd(c"luo", 4 * PAGE)?;
    write_pages(&file, 60, 4)?;
    let fdbox = FdBox::create("luo")?;
    fdbox.put(file.try_clone()?, "memory")?;

    let session = Session::create("fdbox")?;
    session.preserve(&file, 1)?;
    fails(
        "SEAL of a file that LUO holds",
        fdbox.try_seal(),
        Errno::BUSY,
    )?;
    let why = fdbox.seal_error()?;
    equal("The descriptor named", why.name.text(), "memory".into())?;
    equal("The reason", why.reason, uapi::REASON_SHARED_FILE)?;
    // Released by LUO, it can be sealed.
    drop(session);
    fdbox.seal()?;

    let session = Session::create("fdbox")?;
    fails(
        "PRESERVE_FD of a file that a sealed box holds",
        session.preserve(&file, 1),
        Errno::BUSY,
    )?;
    // After the refusal the file is still frozen, as the box requires.
    fails(
        "Truncating it",
        rustix::fs::ftruncate(&file, PAGE),
        Errno::PERM,
    )?;
    fdbox.unseal()?;
    session.preserve(&file, 1)?;
    drop(session);
    check_pages(&memory::file(fdbox.get("memory")?), 60, 4)?;
    fdbox.delete()
}
