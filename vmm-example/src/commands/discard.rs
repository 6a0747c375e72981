//! `discard`: gives up a box that nobody will resume.

use anyhow::{Context, bail};
use vmm_fdbox::update::ExitStatus;
use vmm_fdbox::{AnyBox, BoxName, BoxStore, Hold, LostFd, OpenFdBox, SealedFdBox};

use super::keeper;
use crate::cli::DiscardArgs;
use crate::error::say;

pub(super) fn discard(args: &DiscardArgs) -> anyhow::Result<ExitStatus> {
    let store = keeper::open(&args.home, true)?;
    for lost in discard_from(&store, &args.box_name, args.yes)? {
        say(&format!(
            "{}: could not have been taken out: {lost}",
            args.box_name
        ));
    }
    say(&format!("{}: given up", args.box_name));
    Ok(ExitStatus::Done)
}

/// Without `sure` it only says what would be lost. Returns what was already lost.
fn discard_from<S: BoxStore>(store: &S, name: &BoxName, sure: bool) -> anyhow::Result<Vec<LostFd>> {
    // A guest that is being updated or resumed must not be lost.
    let _claim = store.claim(name, Hold::Exclusive).with_context(|| {
        format!("Cannot give up {name}: `vmm-example status` lists the boxes that there are")
    })?;
    let found = store.open_box(name)?;
    let fds = match &found {
        AnyBox::Open(open) => open.fds()?,
        AnyBox::Sealed(sealed) => sealed.fds()?,
    };
    if !fds.is_empty() && !sure {
        let names: Vec<_> = fds.iter().map(|fd| fd.name.to_string()).collect();
        bail!(
            "{name} holds {}: a guest in it would be lost. Use --yes if nobody will resume it",
            names.join(", ")
        );
    }
    let mut lost = Vec::new();
    if let AnyBox::Sealed(sealed) = found {
        // The box is given up, so it does not matter what was lost in the last kexec.
        if let Err(failed) = sealed.unseal() {
            lost = failed.error.lost.clone();
            if lost.is_empty() {
                return Err(failed.error.into());
            }
            failed.sealed.salvage().map_err(|failed| failed.error)?;
        }
    }
    store.delete(name)?;
    Ok(lost)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use vmm_fdbox::FdName;
    use vmm_fdbox::fake::FakeStore;

    use super::*;

    fn store_with(name: &BoxName, sealed: bool) -> FakeStore {
        let store = FakeStore::new();
        let open = store.create(name).unwrap();
        let file = File::open("/dev/null").unwrap();
        open.put(&FdName::new("memory").unwrap(), file.into())
            .unwrap();
        if sealed {
            open.seal().unwrap();
        }
        store
    }

    #[test]
    fn a_box_goes_only_when_told_twice() {
        let name = BoxName::new("vm0").unwrap();
        for sealed in [false, true] {
            let store = store_with(&name, sealed);
            let before = store.content(&name);
            let refused = discard_from(&store, &name, false).unwrap_err().to_string();
            assert!(refused.contains("vm0 holds memory"), "{refused}");
            assert_eq!(store.content(&name), before);
            discard_from(&store, &name, true).unwrap();
            assert_eq!(store.content(&name), None);
        }
    }

    #[test]
    fn a_box_that_is_not_whole_goes_too_and_what_was_lost_is_reported() {
        let name = BoxName::new("vm0").unwrap();
        let store = store_with(&name, true);
        store.lose(&FdName::new("memory").unwrap());
        let lost = discard_from(&store, &name, true).unwrap();
        assert_eq!(
            lost.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["'memory' (fake): its memory was not kept by the last kernel"]
        );
        assert_eq!(store.content(&name), None);
    }

    #[test]
    fn an_empty_box_loses_nothing() {
        let name = BoxName::new("empty").unwrap();
        let store = FakeStore::new();
        store.create(&name).unwrap();
        discard_from(&store, &name, false).unwrap();
        assert_eq!(store.content(&name), None);
    }

    #[test]
    fn no_such_box_is_reported() {
        let name = BoxName::new("none").unwrap();
        let error = discard_from(&FakeStore::new(), &name, true).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("box none: there is no such box"), "{text}");
    }

    #[test]
    fn a_box_that_somebody_works_on_stays() {
        let name = BoxName::new("vm0").unwrap();
        let store = store_with(&name, true);
        let before = store.content(&name);
        let update = store.claim(&name, Hold::Shared).unwrap();
        let refused = format!("{:#}", discard_from(&store, &name, true).unwrap_err());
        assert!(refused.contains("another process does"), "{refused}");
        assert_eq!(store.content(&name), before);
        drop(update);
        discard_from(&store, &name, true).unwrap();
    }
}
