//! The coordinator with the API sockets of VMMs, with in-memory boxes.

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use clap::Parser;
use vmm_fdbox::fake::{FakeHost, FakeStore, HostCall};
use vmm_fdbox::frame::FrameWriter;
use vmm_fdbox::member::{Join, LeavingVmm, Left, serve_leaving_into};
use vmm_fdbox::update::{Guest as Leaves, NamedFd, PartyError, Plan};
use vmm_fdbox::{Clock, Deadline, FdName, Finding, Info};

use super::guests::{check, check_names, position};
use super::*;
use crate::cli::{Cli, Command, NotReadyArg};
use crate::service::api::protocol::{GuestStatus, Reply, RunState};
use crate::spec::MemoryKind;

/// A VMM that carries out every order.
struct Obedient {
    /// Why it cannot be paused.
    stays: Option<&'static str>,
    stands: Arc<AtomicBool>,
}

impl Leaves for Obedient {
    fn preflight(&mut self) -> Vec<Finding> {
        Vec::new()
    }

    fn take_fds(&mut self) -> Result<Vec<NamedFd>, PartyError> {
        let fd = OwnedFd::from(tempfile::tempfile()?);
        let name = FdName::new("memory0")?;
        Ok(vec![NamedFd { name, fd }])
    }

    fn pause(&mut self, _: Deadline) -> Result<(), PartyError> {
        self.stands.store(true, Ordering::SeqCst);
        self.stays.map_or(Ok(()), |why| Err(why.into()))
    }

    fn save(&mut self, _: &mut FrameWriter<'_>, _: Deadline) -> Result<(), PartyError> {
        Ok(())
    }

    fn resume_in_place(&mut self) -> Result<(), PartyError> {
        self.stands.store(false, Ordering::SeqCst);
        Ok(())
    }
}

impl LeavingVmm for Obedient {
    fn join(&mut self, join: &Join) -> Result<Plan, PartyError> {
        let clock = Clock::tsc(NonZeroU32::MIN);
        Ok(Plan::new(join.box_name.clone(), clock, "test 1"))
    }
}

fn status(name: &str) -> Reply {
    Reply::Status(Box::new(GuestStatus {
        name: name.into(),
        state: RunState::Running,
        pid: 1,
        vcpus: 1,
        cpu_features: Vec::new(),
        ram_kind: MemoryKind::Memfd,
        ram_mib: 64,
        tsc_khz: 0,
        step: None,
        last_update: None,
        previous_kernel: None,
        blackout: None,
        devices: Vec::new(),
        host_devices: Vec::new(),
    }))
}

/// Plays the VMM of one guest; returns whether the guest runs in it at the end.
fn serve(
    listener: &UnixListener,
    name: &str,
    store: &FakeStore,
    stays: Option<&'static str>,
) -> bool {
    let (mut stream, _) = listener.accept().unwrap();
    loop {
        let mut line = String::new();
        if BufReader::new(&stream).read_line(&mut line).unwrap() == 0 {
            // An attempt to connect that only checked whether there is a VMM.
            (stream, _) = listener.accept().unwrap();
            continue;
        }
        let (reply, joins) = match serde_json::from_str(&line).unwrap() {
            Request::Status {} => (status(name), false),
            Request::JoinUpdate {} => (Reply::Ok, true),
            other => panic!("{other:?}"),
        };
        writeln!(&stream, "{}", serde_json::to_string(&reply).unwrap()).unwrap();
        if joins {
            break;
        }
    }
    let stands = Arc::default();
    let mut vmm = Obedient { stays, stands };
    let socket: UnixStream = stream.try_clone().unwrap();
    let left = serve_leaving_into(socket, &mut vmm, |name, _: Info| store.passed(name));
    matches!(left, Left::Here) && !vmm.stands.load(Ordering::SeqCst)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

struct World {
    dir: tempfile::TempDir,
    store: FakeStore,
    vmms: Vec<JoinHandle<bool>>,
}

impl World {
    /// Three VMMs, the second of which cannot pause its guest.
    fn new(stays: Option<&'static str>) -> Self {
        let (dir, store) = (tempfile::tempdir().unwrap(), FakeStore::new());
        let vmm = |(at, name): (usize, &&'static str)| {
            let listener = UnixListener::bind(dir.path().join(format!("{name}.sock"))).unwrap();
            let (name, stays) = (*name, stays.filter(|_| at == 1));
            let store = store.clone();
            thread::spawn(move || serve(&listener, name, &store, stays))
        };
        let vmms = NAMES.iter().enumerate().map(vmm).collect();
        Self { dir, store, vmms }
    }

    fn update(&self, host: &mut FakeHost, options: &str) -> FleetOutcome {
        let dir = self.dir.path().display();
        let args = args(&format!("--all --run-dir {dir} --no-kexec {options}"));
        let sockets = discover::sockets(self.dir.path()).unwrap();
        let mut guests: Vec<_> = sockets.iter().map(|path| Guest::connect(path)).collect();
        guests
            .iter_mut()
            .for_each(|guest| guest.take_part().unwrap());
        let output = Output::many(true);
        let update = Update {
            args: &args,
            boxes: self.store.clone(),
            output: &output,
        };
        let members = update.members(guests, limits(&args)).unwrap();
        let plan = FleetPlan {
            not_ready: args.fleet.not_ready.unwrap_or(NotReadyArg::Abort).into(),
            ..FleetPlan::default()
        };
        update.drive(host, members, plan)
    }

    /// Which guests run here at the end.
    fn continued(self) -> Vec<bool> {
        let join = |vmm: JoinHandle<bool>| vmm.join().unwrap();
        self.vmms.into_iter().map(join).collect()
    }
}

fn args(options: &str) -> LiveUpdateArgs {
    let line = format!("vmm live-update {options}");
    match Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command) {
        Ok(Command::LiveUpdate(args)) => args,
        other => panic!("{other:?}"),
    }
}

#[test]
fn three_guests_leave_by_one_jump() {
    let (world, mut host) = (World::new(None), FakeHost::default());
    let outcome = world.update(&mut host, "");
    assert_eq!(outcome.exit_status(), ExitStatus::Done, "{outcome:?}");
    assert_eq!(host.calls, [HostCall::Load, HostCall::Jump]);
}

#[test]
fn a_guest_that_cannot_be_paused_rolls_the_others_back_or_is_left() {
    for (options, status) in [
        ("", ExitStatus::RolledBack),
        ("--not-ready leave", ExitStatus::Done),
    ] {
        let (world, mut host) = (World::new(Some("it will not")), FakeHost::default());
        let outcome = world.update(&mut host, options);
        assert_eq!(outcome.exit_status(), status, "{outcome:?}");
        let stopped = outcome.members[1].stopped.as_ref().unwrap();
        assert!(stopped.message.contains("it will not"), "{stopped:?}");
        let jumped = host.calls.contains(&HostCall::Jump);
        assert_eq!(jumped, status == ExitStatus::Done);
        if !jumped {
            assert_eq!(world.continued(), [true; 3]);
        }
    }
}

#[test]
fn a_vmm_that_does_not_answer_is_a_guest_that_is_not_ready() {
    let world = World::new(None);
    let missing = world.dir.path().join("d.sock");
    let mut guest = Guest::connect(&missing);
    assert_eq!(guest.name(), "d");
    let why = guest.take_part().unwrap_err();
    assert!(why.contains("No VMM answers"), "{why}");
    assert!(guest.into_socket().is_err());
}

#[test]
fn the_order_gives_each_guest_its_place() {
    let order = ["b".to_owned(), "a".to_owned()];
    let places = NAMES.map(|name| position(&order, name));
    assert_eq!(places, [Some(1), Some(0), Some(2)]);
    assert_eq!(position(&[], "a"), None);
    assert!(check_names(&NAMES, &order).is_ok());
    assert!(check_names(&NAMES, &["d".to_owned()]).is_err());
    assert!(check_names(&["a", "a"], &[]).is_err());
}

#[test]
fn paths_of_the_next_kernel_are_absolute() {
    let next = next_kernel(Path::new("k"), Some(Path::new("i")), Some("kho=on")).unwrap();
    let NextKernel::Files {
        kernel,
        initramfs,
        cmdline,
    } = next
    else {
        panic!("{next:?}")
    };
    assert!(kernel.is_absolute() && initramfs.unwrap().is_absolute());
    assert_eq!(cmdline, "kho=on");
}

#[test]
fn a_step_that_is_to_fail_is_this_processs_or_a_guests() {
    let one = args("--api-socket s --kernel k --fail-at seal");
    assert!(!of_coordinator(&one, Step::Seal) && of_coordinator(&one, Step::Jump));
    let all = args("--all --kernel k --fail-at seal");
    assert!(of_coordinator(&all, Step::Seal));
    let guest = args("--all --kernel k --fail-at seal --fail-guest a");
    assert!(!of_coordinator(&guest, Step::Seal));
}

#[test]
fn one_guest_has_no_others_that_leave_it_behind() {
    let one = args("--api-socket s --kernel k --not-ready leave");
    let refused = check(&[], &one).unwrap_err().to_string();
    assert!(refused.contains("--not-ready"), "{refused}");
    assert!(check(&[], &args("--all --kernel k --not-ready leave")).is_ok());
}

#[test]
fn a_vmm_that_calls_its_guest_by_another_name_is_not_ready() {
    let world = World::new(None);
    let own = world.dir.path().join("a.sock");
    assert_eq!(Guest::connect(&own).named_by(&own).name(), "a");
    let others = world.dir.path().join("d.sock");
    std::fs::rename(&own, &others).unwrap();
    let mut guest = Guest::connect(&others).named_by(&others);
    assert_eq!(guest.name(), "d");
    let why = guest.take_part().unwrap_err();
    assert!(why.contains("calls its guest a"), "{why}");
}

#[test]
fn a_vmm_is_who_the_kernel_says_and_not_who_it_says() {
    let world = World::new(None);
    let guest = Guest::connect(&world.dir.path().join("a.sock"));
    let (pid, owner) = guest.process().unwrap();
    // It claims to be process 1.
    assert_eq!(pid, std::process::id());
    assert_eq!(owner.uid, rustix::process::geteuid().as_raw());
    assert!(guest.identity().is_ok());
}
