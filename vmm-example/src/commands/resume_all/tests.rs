//! Whose turn it is, and what is told at the end.

use vmm_fdbox::fake::FakeStore;
use vmm_fdbox::{FdName, OpenFdBox};

use super::*;

fn child(name: &str, position: Option<u32>) -> Child {
    let mut child = Child::fake(name);
    child.said(Said::Ready { position });
    child
}

fn failed(message: &str) -> Said {
    Said::Failed {
        message: message.into(),
    }
}

#[test]
fn named_guests_come_one_after_the_other_and_the_rest_together() {
    let places = [Some(1), None, Some(0), None, Some(2), Some(2)];
    let mut children: Vec<_> = places.map(|place| child("x", place)).into();
    let mut order = Vec::new();
    loop {
        let turn = turns(&children);
        if turn.is_empty() {
            break;
        }
        for &at in &turn {
            children[at].go();
            children[at].ended();
        }
        order.push(turn);
    }
    assert_eq!(order, [vec![2], vec![0], vec![4, 5], vec![1, 3]]);
}

#[test]
fn without_an_order_all_go_at_once() {
    let children: Vec<_> = (0..4).map(|_| child("x", None)).collect();
    assert_eq!(turns(&children), [0, 1, 2, 3]);
}

#[test]
fn a_guest_that_fails_holds_nobody_up() {
    let (sender, heard) = channel();
    let words: [Word; 6] = [
        (0, Some(Said::Ready { position: Some(1) })),
        (1, Some(failed("no state"))),
        (1, None),
        (2, Some(Said::Ready { position: Some(0) })),
        (2, Some(failed("no KVM"))),
        (0, None),
    ];
    words
        .into_iter()
        .for_each(|word| sender.send(word).unwrap());
    let children = ["a", "b", "c"].map(Child::fake).into();
    let total = supervise(children, &heard);
    assert_eq!(total.exit_status(), ExitStatus::NothingChanged);
    let json = serde_json::to_value(&total).unwrap();
    assert_eq!((&json["failed"], &json["resumed"]), (&3.into(), &0.into()));
    assert_eq!(json["guests"][1]["error"], "no state");
    assert_eq!(json["guests"][2]["position"], 0);
    assert!(total.to_string().contains("failed (10)"), "{total}");
}

#[test]
fn the_next_guest_waits_for_the_one_before_to_run_and_not_for_its_report() {
    let (sender, heard) = channel();
    let words: [Word; 5] = [
        (0, Some(Said::Ready { position: Some(1) })),
        (1, Some(Said::Ready { position: Some(0) })),
        (1, Some(Said::Entered)),
        (0, Some(failed("no KVM"))),
        (1, None),
    ];
    words
        .into_iter()
        .for_each(|word| sender.send(word).unwrap());
    let total = supervise(["a", "b"].map(Child::fake).into(), &heard);
    let json = serde_json::to_value(&total).unwrap();
    assert_eq!(json["guests"][0]["error"], "no KVM");
    assert!(
        json["guests"][1]["error"]
            .as_str()
            .unwrap()
            .contains("report")
    );
}

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
    // Nothing was done with them.
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

#[test]
fn nobody_to_resume_is_no_failure() {
    let total = Total::of(Vec::new());
    assert_eq!(total.exit_status(), ExitStatus::Done);
    assert!(total.to_string().contains("No guest waits"));
}
