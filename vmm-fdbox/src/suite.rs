//! What every store of boxes does, as checks that each of them passes: the fake one, a keeper's, and in the lab the
//! module's and LUO's.
//!
//! In what they differ, [`Differs`] says; docs/homes.md has it as a table.

use std::fmt::Debug;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use crate::boxes::AnyBox;
use crate::coordinator::Boxes;
use crate::error::BoxError;
use crate::hold::Hold;
use crate::name::{BoxName, FdName};
use crate::owner::Owner;
use crate::store::{BoxStore, OpenFdBox, SealedFdBox};

/// In what a store differs from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Differs {
    /// It looks at what is put into it, and refuses what it cannot keep.
    pub judges: bool,
    /// The memory in a sealed box has a fixed size.
    pub freezes: bool,
    /// One file can be in two sealed boxes.
    pub shares: bool,
}

impl Differs {
    /// [`FakeStore`](crate::fake::FakeStore).
    pub const FAKE: Self = Self {
        judges: false,
        freezes: false,
        shares: true,
    };
    /// [`Home::Holder`](crate::Home::Holder).
    pub const HOLDER: Self = Self {
        judges: true,
        freezes: false,
        shares: true,
    };
    /// [`Home::Luo`](crate::Home::Luo), and [`Home::Fdbox`](crate::Home::Fdbox).
    pub const KERNEL: Self = Self {
        judges: true,
        freezes: true,
        shares: false,
    };
}

type Check<B> = fn(&B, Differs);

/// The checks and what each is of. A check panics where the store does something else, and leaves no box behind.
#[must_use]
pub fn checks<B: Boxes>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("a box comes and goes", comes_and_goes),
        ("what is put in comes out", puts_and_gets),
        ("a sealed box is closed", is_closed),
        ("what is refused comes back", gives_back),
        ("a box is listed with what is in it", lists),
        ("one works on a box at a time", claims),
        ("a box is somebody's", is_given),
        ("a sealed box is frozen", freezes),
        ("a file is in one sealed box", is_in_one),
    ]
}

fn box_name(name: &str) -> BoxName {
    BoxName::new(name).expect("a name")
}

fn fd_name(name: &str) -> FdName {
    FdName::new(name).expect("a name")
}

fn memfd(content: &[u8]) -> OwnedFd {
    let fd = memfd_create("suite", MemfdFlags::CLOEXEC).expect("a memfd");
    let written = rustix::io::pwrite(&fd, content, 0).expect("room in it");
    assert_eq!(written, content.len());
    fd
}

fn content(fd: &OwnedFd) -> Vec<u8> {
    let mut bytes = [0; 64];
    let read = rustix::io::pread(fd, &mut bytes, 0).expect("a file");
    bytes[..read].to_vec()
}

fn refused<T: Debug>(done: Result<T, BoxError>, errno: Errno) {
    assert_eq!(done.expect_err("it was done").errno(), errno);
}

fn sealed<O: OpenFdBox>(open: O) -> O::Sealed {
    open.seal()
        .unwrap_or_else(|failed| panic!("{}", failed.error))
}

fn unsealed<S: SealedFdBox>(sealed: S) -> S::Open {
    let done = sealed.unseal();
    done.unwrap_or_else(|failed| panic!("{}", failed.error))
}

fn put(open: &impl OpenFdBox, name: &str, fd: OwnedFd) {
    let done = open.put(&fd_name(name), fd);
    done.unwrap_or_else(|refused| panic!("{}", refused.error));
}

fn comes_and_goes<B: Boxes>(store: &B, _: Differs) {
    let name = box_name("suite");
    refused(store.open_box(&name).map(drop), Errno::NOENT);
    refused(store.delete(&name), Errno::NOENT);
    assert!(store.is_free(&name).expect("a list"));
    let open = store.create(&name).expect("a box");
    refused(store.create(&name), Errno::EXIST);
    store.make(&name).expect("the empty one");
    store.delete(&name).expect("it is open");
    // Who has it open finds out.
    refused(open.fds(), Errno::NODEV);
    assert!(!is_listed(store, &name));
}

fn is_listed<B: Boxes>(store: &B, name: &BoxName) -> bool {
    let mut boxes = store.boxes().expect("a list").into_iter();
    boxes.any(|info| info.name == *name)
}

fn puts_and_gets<B: Boxes>(store: &B, _: Differs) {
    let name = box_name("suite");
    let open = store.create(&name).expect("a box");
    put(&open, "one", memfd(b"1"));
    put(&open, "two", memfd(b"2"));
    refused(open.get(&fd_name("three")), Errno::NOENT);
    let kept = open.get_and_keep(&fd_name("one")).expect("it is in");
    let taken = open.get(&fd_name("one")).expect("it still is");
    assert_eq!((content(&kept), content(&taken)), (vec![b'1'], vec![b'1']));
    refused(open.get(&fd_name("one")), Errno::NOENT);
    // By another opening of the box.
    let again = store.open_box(&name).expect("the box").into_open();
    let two = again.expect("an open box").get(&fd_name("two"));
    assert_eq!(content(&two.expect("it is in")), b"2");
    store.delete_empty(&name).expect("an empty box");
}

fn is_closed<B: Boxes>(store: &B, _: Differs) {
    let name = box_name("suite");
    let open = store.create(&name).expect("a box");
    put(&open, "one", memfd(b"1"));
    let other = store.open_box(&name).expect("the box").into_open();
    let other = other.expect("an open box");
    let closed = sealed(open);
    refused(other.get(&fd_name("one")), Errno::BUSY);
    let put_too = other.put(&fd_name("two"), memfd(b"2"));
    assert_eq!(
        put_too.expect_err("it is sealed").error.errno(),
        Errno::BUSY
    );
    let twice = other.seal().expect_err("it is sealed");
    assert_eq!(twice.error.error.errno(), Errno::BUSY);
    refused(store.delete(&name), Errno::BUSY);
    assert_eq!(closed.fds().expect("a list").len(), 1);
    let found = store.open_box(&name).expect("the box").into_sealed();
    let open = unsealed(found.expect("a sealed box"));
    assert_eq!(
        closed.unseal().expect_err("it is open").error.errno(),
        Errno::INVAL
    );
    // Again, with the same content.
    let open = unsealed(sealed(open));
    assert_eq!(content(&open.get(&fd_name("one")).expect("it is in")), b"1");
    assert!(open.lost().expect("a list").is_empty());
    store.delete(&name).expect("it is open");
}

fn gives_back<B: Boxes>(store: &B, differs: Differs) {
    let name = box_name("suite");
    let open = store.create(&name).expect("a box");
    put(&open, "one", memfd(b"1"));
    let twice = open.put(&fd_name("one"), memfd(b"2"));
    let twice = twice.expect_err("the name is taken");
    assert_eq!(twice.error.errno(), Errno::EXIST);
    assert_eq!(content(&twice.fd), b"2");
    if differs.judges {
        let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("it"));
        let null = open.put(&fd_name("null"), null).expect_err("no kind");
        assert_eq!(null.error.errno(), Errno::OPNOTSUPP);
    }
    store.delete(&name).expect("it is open");
}

fn lists<B: Boxes>(store: &B, differs: Differs) {
    let (name, other) = (box_name("suite"), box_name("suite-2"));
    let before = store.info().expect("what it can do").boxes;
    let open = store.create(&name).expect("a box");
    store.create(&other).expect("another");
    put(&open, "one", memfd(b"1"));
    put(&open, "two", memfd(&[2; 60]));
    let closed = sealed(open);
    let boxes = store.boxes().expect("a list");
    let listed = |name: &BoxName| {
        let found = boxes.iter().find(|info| info.name == *name);
        found.map(|info| (info.sealed, info.fds))
    };
    assert_eq!(listed(&name), Some((true, 2)));
    assert_eq!(listed(&other), Some((false, 0)));
    let fds = closed.fds().expect("a list");
    let names: Vec<_> = fds.iter().map(|fd| fd.name.to_string()).collect();
    assert_eq!(names, ["one", "two"]);
    if differs.judges {
        let is_memfd = |fd: &crate::FdInfo| crate::Kind::of(&fd.kind) == crate::Kind::Memfd;
        assert!(fds.iter().all(is_memfd), "{fds:?}");
        assert!(fds.iter().all(|fd| fd.bytes > 0), "{fds:?}");
    }
    let info = store.info().expect("what it can do");
    assert!(info.features.memfd());
    assert_eq!(info.boxes, before + 2);
    drop(unsealed(closed));
    store.delete(&name).expect("it is open");
    store.delete(&other).expect("it is open");
}

fn claims<B: Boxes>(store: &B, _: Differs) {
    let name = box_name("suite");
    refused(store.claim(&name, Hold::Shared), Errno::NOENT);
    drop(store.create(&name).expect("a box"));
    let one = store
        .claim(&name, Hold::Shared)
        .expect("nobody works on it");
    let two = store.claim(&name, Hold::Shared).expect("both say so");
    refused(store.claim(&name, Hold::Exclusive), Errno::AGAIN);
    assert!(!store.is_free(&name).expect("a list"));
    drop((one, two));
    let alone = store.claim(&name, Hold::Exclusive).expect("nobody does");
    refused(store.claim(&name, Hold::Shared), Errno::AGAIN);
    drop(alone);
    store.delete(&name).expect("it is open");
}

fn is_given<B: Boxes>(store: &B, _: Differs) {
    let name = box_name("suite");
    drop(store.create(&name).expect("a box"));
    assert_eq!(store.owner(&name).expect("the box"), Owner::ROOT);
    let owner = Owner { uid: 990, gid: 991 };
    store.give(&name, owner).expect("CAP_CHOWN");
    assert_eq!(store.owner(&name).expect("the box"), owner);
    store.delete(&name).expect("it is open");
}

fn freezes<B: Boxes>(store: &B, differs: Differs) {
    let name = box_name("suite");
    let open = store.create(&name).expect("a box");
    let fd = memfd(&[1; 64]);
    put(&open, "one", fd.try_clone().expect("a descriptor"));
    let closed = sealed(open);
    // The content may change, the shape may not.
    rustix::io::pwrite(&fd, b"2", 0).expect("the page is there");
    let grown = rustix::fs::ftruncate(&fd, 1 << 20);
    assert_eq!(grown.is_err(), differs.freezes, "{grown:?}");
    let open = unsealed(closed);
    rustix::fs::ftruncate(&fd, 1 << 20).expect("it is nobody's but ours");
    let one = open.get(&fd_name("one")).expect("it is in");
    assert_eq!(content(&one)[0], b'2');
    store.delete(&name).expect("it is open");
}

fn is_in_one<B: Boxes>(store: &B, differs: Differs) {
    let (name, other) = (box_name("suite"), box_name("suite-2"));
    let (one, two) = (store.create(&name), store.create(&other));
    let (one, two) = (one.expect("a box"), two.expect("another"));
    let fd = memfd(b"1");
    put(&one, "one", fd.try_clone().expect("a descriptor"));
    put(&two, "two", fd);
    let one = sealed(one);
    match two.seal() {
        Ok(two) => {
            assert!(differs.shares);
            drop(unsealed(two));
        }
        Err(failed) => {
            assert!(!differs.shares, "{}", failed.error);
            assert_eq!(failed.error.error.errno(), Errno::BUSY);
            let report = failed.error.report.expect("who is at fault");
            assert_eq!(report.name, Some(fd_name("two")));
            assert_eq!(report.reason, crate::SealReason::SharedFile);
        }
    }
    drop(unsealed(one));
    store.delete(&name).expect("it is open");
    store.delete(&other).expect("it is open");
}

/// Whether a box is there in which state, for tests of what crosses something.
#[must_use]
pub fn is_sealed<B: BoxStore>(store: &B, name: &BoxName) -> Option<bool> {
    let found = store.open_box(name).ok()?;
    Some(matches!(found, AnyBox::Sealed(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeStore;
    use crate::keeper::Keeper;

    #[test]
    fn the_fake_store_passes() {
        for (_, check) in checks() {
            check(&FakeStore::new(), Differs::FAKE);
        }
    }

    #[test]
    fn a_holder_passes() {
        let control = Keeper::holder().unwrap().connect().unwrap();
        for (_, check) in checks() {
            check(&control, Differs::HOLDER);
        }
    }
}
