//! A VMM that is to receive a guest, in a thread next to a process that does nothing.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use super::world::{At, Script, fd_name};
use crate::coordinator::{Child, ChildError};
use crate::fake::FakeStore;
use crate::frame::KnownSection;
use crate::member::{Arrive, Arrived, ArrivingVmm, Lent, serve_arriving_from};
use crate::update::{Arrival, Arriving, Finished, PartyError};
use crate::{BoxStore, PassedStore};

/// A VMM that is to receive the guest.
#[derive(Debug)]
pub(super) struct NewVmm {
    pub(super) running: Arc<Mutex<bool>>,
    pub(super) script: Script,
    pub(super) position: Option<u32>,
    /// The order in which guests ran.
    pub(super) order: Arc<Mutex<Vec<Option<u32>>>>,
    pub(super) lent: Arc<Mutex<Vec<String>>>,
    pub(super) ram: Option<OwnedFd>,
    /// How many VMMs have reserved their guests' host resources, and how many must have done so
    /// before one is restored.
    pub(super) reserved: Arc<AtomicUsize>,
    pub(super) together: Arc<AtomicUsize>,
}

const KNOWN: [KnownSection; 1] = [KnownSection::new("cpu", 1, 1)];

impl NewVmm {
    pub(super) fn new(script: Script) -> Self {
        Self {
            running: Arc::default(),
            script,
            position: None,
            order: Arc::default(),
            reserved: Arc::default(),
            together: Arc::default(),
            lent: Arc::default(),
            ram: None,
        }
    }

    fn note(&self, lent: &Lent) {
        let names = lent.fds.iter().map(|(name, _)| name.clone());
        self.lent.lock().unwrap().extend(names);
        if let Some((name, _)) = lent.fds.first() {
            assert_eq!(lent.value, json!({ "at": name }));
        }
    }
}

impl ArrivingVmm for NewVmm {
    fn known(&self) -> &[KnownSection] {
        &KNOWN
    }

    fn get_ready(&mut self, _: &Arrive) -> Result<(), PartyError> {
        self.script.reach(At::GetReady)
    }

    fn reserve(&mut self, _: &crate::frame::Frame<Vec<u8>>) {
        self.reserved.fetch_add(1, Ordering::SeqCst);
    }

    fn position(&self, _: &crate::frame::Frame<Vec<u8>>) -> Option<u32> {
        self.position
    }

    fn prebuild<S: BoxStore>(
        &mut self,
        arriving: &mut Arriving<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.note(&lent);
        self.script.reach(At::Prebuild)?;
        self.ram = Some(arriving.take(&fd_name("ram"))?);
        Ok(())
    }

    fn restore<S: BoxStore>(
        &mut self,
        arrival: &mut Arrival<S>,
        lent: Lent,
    ) -> Result<(), PartyError> {
        self.note(&lent);
        self.script.reach(At::Restore)?;
        let reserved = self.reserved.load(Ordering::SeqCst);
        assert!(
            reserved >= self.together.load(Ordering::SeqCst),
            "one goes on before all have reserved theirs"
        );
        if self.ram.is_none() {
            self.ram = Some(arrival.take(&fd_name("ram"))?);
        }
        assert_eq!(arrival.frame().read::<u32>("cpu")?, 1234);
        Ok(())
    }

    fn abandon(&mut self) {
        self.ram = None;
    }

    fn run(&mut self) -> Result<u64, PartyError> {
        self.script.reach(At::Run)?;
        assert!(self.ram.is_some());
        *self.running.lock().unwrap() = true;
        self.order.lock().unwrap().push(self.position);
        Ok(1)
    }

    fn report(&mut self, finished: Finished) -> Value {
        // A failure here does not harm the guest.
        let _ = self.script.reach(At::Report);
        json!({ "deleted": finished.deleted.is_ok() })
    }

    fn adopt(&mut self, lent: Lent) {
        self.note(&lent);
    }
}

/// Starts a VMM for a guest. Its process waits for the end of its input; a thread does the work.
pub(super) fn new_vmm(store: &FakeStore, vmm: NewVmm) -> Result<(Child, UnixStream), ChildError> {
    let store = store.clone();
    start_new_vmm(vmm, move |socket, vmm| {
        serve_arriving_from(socket, vmm, |name, _, fd| {
            let passed = store.passed(name);
            passed.receive(fd).map(|()| passed)
        })
    })
}

/// The same with boxes that `serve` knows.
pub(super) fn start_new_vmm(
    mut vmm: NewVmm,
    serve: impl FnOnce(UnixStream, &mut NewVmm) -> Arrived + Send + 'static,
) -> Result<(Child, UnixStream), ChildError> {
    let mut cat = Command::new("/bin/cat");
    cat.stdout(Stdio::null()).stderr(Stdio::null());
    let (child, input) = Child::spawn(cat)?;
    let (ours, theirs) = UnixStream::pair().unwrap();
    *vmm.script.socket.lock().unwrap() = Some(theirs.try_clone().unwrap());
    thread::spawn(move || {
        if let Some(before) = vmm.script.before {
            before();
        }
        let arrived = serve(theirs, &mut vmm);
        if let Arrived::Here(adoption) = arrived {
            adoption.wait(|lent| vmm.adopt(lent));
        }
        vmm.script.socket.lock().unwrap().take();
        drop(input);
    });
    Ok((child, ours))
}
