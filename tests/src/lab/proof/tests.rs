use std::time::Duration;

use fdbox_lab::event::Hello;
use serde_json::json;

use super::*;

fn report() -> Report {
    Report {
        boot_id: "x".into(),
        release: "r".into(),
        cpus: 1,
        uptime_ns: 10_000_000_000,
        tsc: 0,
        counter: 1000,
        counters: vec![600, 400],
        counter_went_back: false,
        backwards: Vec::new(),
        largest_gap_ns: 1_000_000,
        largest_gap_tsc_ns: 1_000_000,
        largest_gap_at_ns: 0,
        pages_checked: 100,
        pages_bad: 0,
        bad: Vec::new(),
        rewritten: 1000,
        kernel_warnings: 0,
        warnings: Vec::new(),
        io: None,
        frames: None,
    }
}

fn good() -> Update {
    let phases = vec![Phase {
        name: "boot".into(),
        ns: 2_900_000_000,
    }];
    let blackout = Blackout {
        total_ns: 3_000_000_000,
        phases,
    };
    Update {
        before: report(),
        after: Report {
            uptime_ns: 15_000_000_000,
            counter: 1500,
            counters: vec![900, 600],
            rewritten: 1500,
            largest_gap_ns: 3_010_000_000,
            largest_gap_tsc_ns: 3_010_000_000,
            ..report()
        },
        resume: Resume {
            result: "done".into(),
            ram_kind: "memfd".into(),
            ram_mib: 256,
            vcpus: 1,
            home: None,
            host: ResumeHost {
                boot_id: "h".into(),
            },
            blackout: Some(blackout.clone()),
            tsc_khz: 1_000_000,
            lifeboat: None,
        },
        blackout,
        traffic: None,
        device: None,
        lifeboat: None,
        was_paused: false,
        vmm: Some(Vmm {
            uid: 65534,
            capabilities: 0,
            seccomp: 2,
        }),
    }
}

fn verdict(update: &Update) -> Result<()> {
    update.check(Duration::from_secs(5), 1, Some((11_000, 1200)))
}

#[test]
fn a_vmm_is_one_user_without_rights_before_and_after() {
    let vmm = |uid: u32, capabilities: u64, seccomp: u32| Value {
        at: Duration::ZERO,
        name: "vmm".into(),
        value: serde_json::json!({"uid": uid, "capabilities": capabilities, "seccomp": seccomp}),
    };
    let of = |values: [Value; 2]| Vmm::of(&[&values[0], &values[1]]);
    assert_eq!(of([vmm(7, 0, 2), vmm(7, 0, 2)]).unwrap().unwrap().uid, 7);
    assert!(Vmm::of(&[]).unwrap().is_none());
    assert!(Vmm::of(&[&vmm(7, 0, 2)]).is_err());
    for (before, after) in [
        (vmm(7, 0, 2), vmm(8, 0, 2)),
        (vmm(7, 1, 2), vmm(7, 0, 2)),
        (vmm(0, 0, 2), vmm(0, 0, 2)),
        (vmm(7, 1, 2), vmm(7, 1, 2)),
        (vmm(7, 0, 0), vmm(7, 0, 0)),
    ] {
        assert!(of([before, after]).is_err());
    }
}

#[test]
fn a_good_update_passes() {
    verdict(&good()).unwrap();
}

#[test]
fn each_way_to_go_wrong_is_caught() {
    let spoil: Vec<fn(&mut Update)> = vec![
        |u| u.after.boot_id = "y".into(),
        |u| u.after.pages_bad = 1,
        |u| u.after.pages_checked = 99,
        |u| u.after.counter_went_back = true,
        |u| u.after.kernel_warnings = 1,
        |u| u.after.counter = 1000,
        |u| u.after.counter = 1199,
        // The second CPU has stopped, whatever the first one does.
        |u| u.after.counters = vec![1100, 400],
        |u| u.after.counters = vec![1500],
        |u| u.after.rewritten = 1000,
        |u| u.after.cpus = 2,
        |u| u.after.uptime_ns = 12_000_000_000,
        |u| u.after.uptime_ns = 18_000_000_000,
        |u| u.after.largest_gap_ns = 40_000_000,
        |u| u.after.largest_gap_tsc_ns = 40_000_000,
        |u| u.after.largest_gap_ns = 4_200_000_000,
        |u| u.after.largest_gap_ns = 2_900_000_000,
        |u| u.blackout.phases.clear(),
        |u| u.blackout.phases[0].ns = 4_000_000_000,
        |u| u.resume.result = "lost".into(),
    ];
    for (number, spoil) in spoil.iter().enumerate() {
        let mut update = good();
        spoil(&mut update);
        assert!(verdict(&update).is_err(), "number {number} passed");
    }
}

#[test]
fn the_gap_of_a_paused_guest_may_be_longer_than_the_blackout_but_not_shorter() {
    let mut update = good();
    update.after.largest_gap_ns = 4_200_000_000;
    assert!(verdict(&update).is_err());
    update.was_paused = true;
    verdict(&update).unwrap();
    update.after.largest_gap_ns = 2_900_000_000;
    assert!(verdict(&update).is_err());
}

/// An update of a guest with disk and network.
pub(crate) fn with_traffic() -> Update {
    Update {
        traffic: Some(io::sample()),
        ..good()
    }
}

fn hello(stage: usize) -> Hello {
    Hello {
        stage,
        release: format!("7.3-{stage}"),
        version: String::new(),
        boot_id: format!("boot {stage}"),
        uptime_ns: 0,
        tsc: 0,
    }
}

/// Two guests go through one kexec: `vm0` and `vm1`, whose heartbeats differ only by name.
pub(crate) fn two_guests(last_beat_of_vm1: u64) -> Record {
    let mut record = Record::default();
    let second = Duration::from_secs(1);
    record.hellos = vec![(Duration::ZERO, hello(1)), (second * 3, hello(2))];
    for (name, counter) in [("vm1", last_beat_of_vm1), ("vm0", 1200)] {
        let update = good();
        let mut of = |what: &str, at, mut value: serde_json::Value| {
            if what == "witness" {
                value["boot_id"] = json!(name);
            }
            let name = format!("{what} {name}");
            record.values.push(Value { at, name, value });
        };
        of("witness", second, json!(update.before));
        of("witness", second * 6, json!(update.after));
        let resume = json!({
            "result": "done", "ram_kind": "memfd", "ram_mib": 256, "vcpus": 1,
            "host": {"boot_id": "boot 2"}, "blackout": update.blackout,
        });
        of("resume", second * 6, resume);
        let beat = json!({"event": "beat", "uptime_ms": 11_000, "counter": counter});
        record.guest.push(GuestLine {
            at: second * 2,
            guest: name.into(),
            text: format!("{}{beat}", fdbox_lab::witness::MARK),
        });
    }
    record
}

#[test]
fn each_guest_is_held_to_its_own_last_heartbeat() {
    assert_eq!(of_guests(&two_guests(1500)).unwrap().len(), 2);
    let error = of_guests(&two_guests(1501)).unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("Guest vm1") && error.contains("last heartbeat"),
        "{error}"
    );
}

#[test]
fn a_guest_that_gave_no_heartbeat_before_the_jump_is_no_proof() {
    let mut record = two_guests(1200);
    record.guest.retain(|line| line.guest != "vm0");
    assert!(of_guests(&record).is_err());
    // Without a jump there is nothing to compare with.
    record.hellos.truncate(1);
    assert_eq!(of_guests(&record).unwrap().len(), 2);
}
