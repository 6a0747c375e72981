//! The thread of a device: it sleeps until the guest or the host has something for it.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::VirtioError;
use super::live::LiveDevice;

/// What an event is about: a ring by its number, or one of these.
const SOURCE: u32 = u32::MAX;
const QUIT: u32 = u32::MAX - 1;

/// A device and its thread, which ends with this.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) device: Arc<LiveDevice>,
    quit: Arc<Quit>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Quit {
    wanted: AtomicBool,
    event: EventFd,
}

impl Worker {
    pub(super) fn start(device: LiveDevice) -> Result<Self, VirtioError> {
        let device = Arc::new(device);
        let quit = Arc::new(Quit {
            wanted: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(VirtioError::Event)?,
        });
        let mut manager = EventManager::new().map_err(VirtioError::Loop)?;
        manager.add_subscriber(Subscriber {
            device: device.clone(),
            quit: quit.clone(),
        });
        let wanted = quit.clone();
        let thread = thread::Builder::new()
            .name(device.name.clone())
            .spawn(move || {
                // The poll can only fail on a signal, of which the loop makes nothing.
                while !wanted.wanted.load(Ordering::Acquire) {
                    let _ = manager.run();
                }
            })
            .map_err(VirtioError::Spawn)?;
        Ok(Self {
            device,
            quit,
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.quit.wanted.store(true, Ordering::Release);
        let _ = self.quit.event.write(1);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

struct Subscriber {
    device: Arc<LiveDevice>,
    quit: Arc<Quit>,
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, events: Events, _: &mut EventOps) {
        match events.data() {
            QUIT => {}
            SOURCE => self.device.on_source(),
            ring => self.device.on_kick(ring as usize),
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        // All of these can be polled; were one not, its device would stand still.
        let mut add = |fd: RawFd, data, set| drop(ops.add(Events::with_data_raw(fd, data, set)));
        use std::os::fd::AsRawFd;
        add(self.quit.event.as_raw_fd(), QUIT, EventSet::IN);
        for (ring, kick) in (0u32..).zip(&self.device.kicks) {
            add(kick.as_raw_fd(), ring, EventSet::IN);
        }
        let edges = EventSet::IN | EventSet::EDGE_TRIGGERED;
        self.device.with_device(|device| {
            if let Some(source) = device.source() {
                add(source.as_raw_fd(), SOURCE, edges);
            }
        });
    }
}
