// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of what a box remembers about objects that it does not hold, with a kind of file
//! that has no object: any address can stand for that of a VM, and can be reused whenever a test
//! wants.

use crate::boxes::contents::Contents;
use crate::boxes::entry::{
    Content,
    Entry,
    Live, //
};
use crate::boxes::slots::IndexNodes;
use crate::ffi::MemfdState;
use crate::file::FileRef;
use crate::kexec::record::{
    Progress,
    Record, //
};
use crate::kind::{
    Kind,
    KindRef, //
};
use crate::name::Name;
use crate::objects::memfd;
use crate::seal_cx::SealCx;
use crate::take_cx::{
    Substitute,
    TakeCx, //
};
use kernel::{
    fs::File,
    prelude::*,
    sync::Arc, //
};

/// A kind whose files belong to the object with this address.
struct Memory(usize);

impl Kind for Memory {
    fn compatible(&self) -> &[u8] {
        b"fdbox,kunit"
    }

    fn matches(&self, _file: &File) -> bool {
        false
    }

    fn belongs_to(&self, _file: &File) -> usize {
        self.0
    }

    fn seal(&self, _cx: &mut SealCx<'_>) -> Result {
        Ok(())
    }

    fn write(&self, _cx: &SealCx<'_>, _record: &mut Record) -> Result {
        Err(EOPNOTSUPP)
    }

    fn unseal(&self, _file: &File, _record: Option<&Record>) {}

    fn restore(
        &self,
        _cx: &mut TakeCx<'_>,
        _compatible: &[u8],
        _record: &Record,
        _progress: &mut Progress,
    ) -> Result<FileRef> {
        Err(EOPNOTSUPP)
    }
}

const VM: usize = 0x1000;
const OTHER: usize = 0x2000;

fn file() -> Result<FileRef> {
    memfd::create(c"kunit", &MemfdState::default())
}

fn memory_of(vm: usize) -> Result<Content> {
    let kind = KindRef::Driver(KBox::new(Memory(vm), GFP_KERNEL)?);
    Ok(Content::Live(Live::new(file()?, kind)))
}

fn put(contents: &mut Contents, name: &[u8], vm: usize) -> Result {
    let admission = contents.slots.prepare(Name::new(name)?, memory_of(vm)?)?;
    contents.slots.admit(admission);
    Ok(())
}

/// A VM that was given out in place of another one.
fn give_out(contents: &mut Contents, vm: usize, file: Option<FileRef>) -> Result {
    let substitute = Substitute {
        name: Name::new(b"vm")?,
        line: 1,
        from_last_kernel: false,
        tag: 0,
        object: vm,
        file,
    };
    Ok(contents.substitutes.push(substitute, GFP_KERNEL)?)
}

/// Two memories of a VM whose process is gone, and one of another VM.
fn three_memories() -> Result<Contents> {
    let mut contents = Contents::new();
    put(&mut contents, b"first", VM)?;
    put(&mut contents, b"second", VM)?;
    put(&mut contents, b"other", OTHER)?;
    give_out(&mut contents, VM, None)?;
    give_out(&mut contents, OTHER, None)?;
    Ok(contents)
}

fn objects(contents: &Contents) -> [usize; 2] {
    [
        contents.substitutes[0].object,
        contents.substitutes[1].object,
    ]
}

#[kunit_tests(fdbox_boxes)]
mod boxes {
    use super::*;

    #[test]
    fn the_address_of_a_vm_goes_with_the_last_memory_of_it() -> Result {
        let mut contents = three_memories()?;
        contents.remove(0);
        assert!(objects(&contents) == [VM, OTHER]);
        contents.remove(0);
        assert!(objects(&contents) == [0, OTHER]);
        Ok(())
    }

    #[test]
    fn the_address_of_a_vm_goes_with_memory_that_is_replaced() -> Result {
        let mut contents = three_memories()?;
        for (at, left) in [(0, VM), (1, 0)] {
            let old = contents.slots[at].entry.clone();
            let (id, name) = (old.id, old.name.try_clone()?);
            let content = memory_of(OTHER)?;
            let entry = Arc::new(Entry { id, name, content }, GFP_KERNEL)?;
            contents.replace(at, entry, IndexNodes::new()?);
            assert!(objects(&contents) == [left, OTHER]);
        }
        Ok(())
    }

    #[test]
    fn the_address_of_a_vm_stays_as_long_as_its_file_is_held() -> Result {
        let mut contents = Contents::new();
        put(&mut contents, b"first", VM)?;
        put(&mut contents, b"other", OTHER)?;
        give_out(&mut contents, VM, Some(file()?))?;
        give_out(&mut contents, OTHER, None)?;
        contents.remove(0);
        assert!(objects(&contents) == [VM, OTHER]);
        contents.remove(0);
        assert!(contents.substitutes.is_empty());
        Ok(())
    }
}
