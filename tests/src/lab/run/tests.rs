use fdbox_lab::scenario::Devices;

use super::*;
use crate::emulator::Emulator;
use crate::tsc::Clocks;

fn hello(stage: usize, release: &str, boot_id: &str) -> Line {
    let hello = Hello {
        stage,
        release: release.into(),
        version: String::new(),
        boot_id: boot_id.into(),
        uptime_ns: 0,
        tsc: 0,
    };
    Line {
        at: Duration::ZERO,
        content: LineContent::Event(Event::Hello(hello)),
    }
}

fn judge(lines: &[Line]) -> Vec<RunFailure> {
    let machine = Machine {
        memory_mib: 1,
        nodes: 1,
        cpus: 1,
        kernel: PathBuf::new(),
        initramfs: PathBuf::new(),
        cmdline: String::new(),
        guests: 0,
        devices: Devices::None,
        emulator: Emulator::default(),
        clocks: Clocks::default(),
    };
    let run = Run {
        machine: &machine,
        releases: &["a".to_owned(), "b".to_owned()],
        stage_limit: Duration::ZERO,
    };
    let mut record = Record::default();
    for line in lines {
        run.take(&mut record, line);
    }
    run.check_stages(&mut record);
    record.failures
}

#[test]
fn two_planned_kernels_pass() {
    assert!(judge(&[hello(1, "a", "x"), hello(2, "b", "y")]).is_empty());
}

#[test]
fn a_lost_kexec_is_caught() {
    assert!(!judge(&[hello(1, "a", "x")]).is_empty());
    assert!(!judge(&[hello(1, "a", "x"), hello(1, "b", "y")]).is_empty());
    assert!(!judge(&[hello(1, "a", "x"), hello(2, "a", "y")]).is_empty());
    assert!(!judge(&[hello(1, "a", "x"), hello(2, "b", "x")]).is_empty());
}

#[test]
fn a_complaint_is_blamed_on_the_command_that_ran() {
    let at = Duration::ZERO;
    let event = |event| Line {
        at,
        content: LineContent::Event(event),
    };
    let warning = Line {
        at,
        content: LineContent::Console("WARNING: at foo.c:1".into()),
    };
    let failures = judge(&[
        hello(1, "a", "x"),
        event(Event::Start { command: 0 }),
        event(Event::Exit {
            command: 0,
            status: 0,
        }),
        event(Event::Start { command: 1 }),
        warning.clone(),
        event(Event::Exit {
            command: 1,
            status: 0,
        }),
        warning,
        hello(2, "b", "y"),
    ]);
    let blamed: Vec<_> = failures.iter().map(|failure| failure.during).collect();
    assert_eq!(blamed, [Some((1, 1)), None]);
}

#[test]
fn a_kernel_that_complains_fails_the_run() {
    let at = Duration::ZERO;
    let mut lines = vec![hello(1, "a", "x"), hello(2, "b", "y")];
    lines.push(Line {
        at,
        content: LineContent::Console("WARNING: CPU: 0 PID: 1 at foo.c:1".into()),
    });
    assert_eq!(judge(&lines).len(), 1);
    let text = "rcu: INFO: rcu_sched self-detected stall on CPU".to_owned();
    lines.push(Line {
        at,
        content: LineContent::Event(Event::Guest {
            guest: "vm0".into(),
            text,
        }),
    });
    assert_eq!(judge(&lines).len(), 2);
}
