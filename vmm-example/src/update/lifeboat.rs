//! What a lifeboat means for a guest that is to go there, or is in one.

use std::collections::BTreeSet;

use vmm_fdbox::{Finding, Kind};

/// Devices that work in a lifeboat.
const NEEDS_NO_HOST: [&str; 1] = ["virtio-rng0"];
/// The one whose output is dropped there.
const CONSOLE: &str = "virtio-console0";

pub(super) fn is_silent(device: &str) -> Finding {
    Finding::blocker(
        device,
        "its interrupts would not reach the guest in the lifeboat: the VMM that started the guest did \
         not prepare for it",
        "update without --lifeboat, or switch the guest off and start it anew",
    )
}

/// What the guest's other devices do in the lifeboat.
pub(super) fn resting_finding(sections: &[&'static str]) -> Option<Finding> {
    let rests = sections.iter().filter(|name| !NEEDS_NO_HOST.contains(name));
    let rests: Vec<&str> = rests.copied().collect();
    let dropped = match rests.contains(&CONSOLE) {
        true => ", and what it writes to hvc0 is dropped",
        false => "",
    };
    (!rests.is_empty()).then(|| {
        Finding::warning(
            rests.join(", "),
            format!(
                "at rest while the guest is in the lifeboat: requests wait until the guest is home{dropped}"
            ),
            "see to it that programs in the guest can wait for as long as the host takes to boot",
        )
    })
}

/// Memory that the lifeboat cannot map.
pub(super) fn boat_memory_finding(kinds: &BTreeSet<Kind>) -> Option<Finding> {
    kinds.contains(&Kind::Hugetlb).then(|| {
        Finding::blocker(
            "The guest's memory",
            "it is in huge pages, which cannot be lent to a lifeboat",
            "update without --lifeboat, or run the guest with --memory of another kind",
        )
    })
}

/// Another build of the VMM would take the guest for one of the host, and open its devices.
pub(super) fn stays_finding() -> Finding {
    Finding::blocker(
        "The VMM",
        "its guest is in a lifeboat, where no other binary can take the guest over",
        "take the guest home with `vmm-example resume` in the host, and update the VMM there",
    )
}

#[cfg(test)]
mod tests {
    use vmm_fdbox::update::Guest;

    use super::super::moving::Moving;
    use super::super::tests::FakeMachine;
    use super::*;

    #[test]
    fn another_binary_is_refused_to_a_guest_in_a_lifeboat_and_to_no_other() {
        let machine = FakeMachine::default();
        let mut guest = Moving::new(&machine);
        for (carried, in_lifeboat) in [(false, false), (true, false), (false, true), (true, true)] {
            (guest.carried, guest.in_lifeboat) = (carried, in_lifeboat);
            let found = guest.preflight();
            let stays = found
                .iter()
                .any(|it| it.to_string().contains("no other binary"));
            assert_eq!(stays, carried && in_lifeboat, "{found:?}");
        }
    }

    #[test]
    fn devices_that_rest_are_named_and_those_that_work_are_not() {
        assert!(resting_finding(&["virtio-rng0"]).is_none());
        let found = resting_finding(&["virtio-blk0", "virtio-net0", "virtio-rng0"]).unwrap();
        assert!(!found.is_blocker());
        assert_eq!(found.subject, "virtio-blk0, virtio-net0");
        assert!(!found.problem.contains("hvc0"), "{}", found.problem);
        let found = resting_finding(&[CONSOLE]).unwrap();
        assert!(
            found.problem.contains("hvc0 is dropped"),
            "{}",
            found.problem
        );
    }

    #[test]
    fn a_device_of_the_host_is_refused_by_name() {
        let found = is_silent("vfio0");
        assert!(found.is_blocker());
        assert!(found.to_string().contains("vfio0"), "{found}");
    }
}
