//! Finds the guests that wait in boxes.

use rustix::io::Errno;
use vmm_fdbox::update::STATE_FD;
use vmm_fdbox::{AnyBox, BoxError, BoxInfo, BoxName, BoxStore, Hold, OpenFdBox, SealedFdBox};

/// The boxes that contain a VM state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Sealed, or left open by a resume that was killed.
    pub(super) boxes: Vec<BoxName>,
    /// An update or a resume is working on them.
    pub(super) busy: Vec<BoxName>,
}

pub(super) fn waiting<S: BoxStore>(store: &S) -> Result<Waiting, BoxError> {
    let mut found = Waiting::default();
    for BoxInfo { name, .. } in store.boxes()? {
        match look_into(store, &name) {
            Ok(true) => found.boxes.push(name),
            Ok(false) => {}
            Err(error) => match error.errno() {
                Errno::AGAIN => found.busy.push(name),
                // It has just been deleted.
                Errno::NOENT | Errno::NODEV | Errno::NXIO => {}
                _ => return Err(error),
            },
        }
    }
    Ok(found)
}

/// Whether a box contains a VM state.
fn look_into<S: BoxStore>(store: &S, name: &BoxName) -> Result<bool, BoxError> {
    let _claim = store.claim(name, Hold::Exclusive)?;
    let fds = match store.open_box(name)? {
        AnyBox::Sealed(sealed) => sealed.fds()?,
        AnyBox::Open(open) => open.fds()?,
    };
    Ok(fds.iter().any(|fd| fd.name.to_string() == STATE_FD))
}

#[cfg(test)]
mod tests {
    use vmm_fdbox::FdName;
    use vmm_fdbox::fake::FakeStore;

    use super::*;

    /// Boxes with a state, or something else, in them, sealed or not.
    fn store(boxes: &[(&str, &str, bool)]) -> FakeStore {
        let store = FakeStore::new();
        for (name, fd, seal) in boxes {
            let open = store.create(&name_of(name)).unwrap();
            let file = std::os::fd::OwnedFd::from(tempfile::tempfile().unwrap());
            open.put(&FdName::new(*fd).unwrap(), file).unwrap();
            if *seal {
                open.seal().unwrap();
            }
        }
        store
    }

    fn name_of(name: &str) -> BoxName {
        BoxName::new(name).unwrap()
    }

    #[test]
    fn boxes_with_a_state_are_resumed_sealed_or_not() {
        let store = store(&[
            ("guest", STATE_FD, true),
            ("killed", STATE_FD, false),
            ("other", "page", true),
            ("taken", "memory0", false),
        ]);
        let found = waiting(&store).unwrap();
        assert_eq!(found.boxes, ["guest", "killed"].map(name_of));
        assert_eq!(found.busy, []);
        // Nothing was done to them.
        let sealed = |name| store.content(&name_of(name)).unwrap().0;
        assert!(sealed("guest") && !sealed("killed"));
    }

    #[test]
    fn a_box_that_somebody_works_on_is_theirs() {
        let store = store(&[("prepared", STATE_FD, true), ("upgraded", STATE_FD, false)]);
        let update = store.claim(&name_of("prepared"), Hold::Shared).unwrap();
        let resume = store.claim(&name_of("upgraded"), Hold::Exclusive).unwrap();
        let busy = ["prepared", "upgraded"].map(name_of).into();
        let boxes = Vec::new();
        assert_eq!(waiting(&store).unwrap(), Waiting { boxes, busy });
        drop((update, resume));
        assert_eq!(waiting(&store).unwrap().boxes.len(), 2);
    }
}
