//! The thread of a device: it sleeps until the guest or the host has something for it.

use std::convert::Infallible;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::VirtioError;
use super::live::LiveDevice;
use super::slot::Slot;
use crate::sandbox;

/// The data of an event: the index of a ring, or one of these.
const SOURCE: u32 = u32::MAX;
const QUIT: u32 = u32::MAX - 1;

/// A thread that waits for its device. Starting it takes longer than handing it the device.
#[derive(Debug)]
pub(super) struct IdleWorker {
    start: Sender<Arc<LiveDevice>>,
    /// Closed by the thread when it waits.
    begins: Receiver<Infallible>,
    quit: Arc<Quit>,
    thread: JoinHandle<()>,
}

/// A device and its thread, which ends with this value.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) device: Arc<LiveDevice>,
    /// `None` once the thread has its device, which is when the guest first runs.
    start: Mutex<Option<Sender<Arc<LiveDevice>>>>,
    quit: Arc<Quit>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Quit {
    wanted: AtomicBool,
    event: EventFd,
}

impl IdleWorker {
    pub(super) fn spawn(slot: Slot) -> Result<Self, VirtioError> {
        let quit = Arc::new(Quit {
            wanted: AtomicBool::new(false),
            event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(VirtioError::Event)?,
        });
        let mut manager = EventManager::new().map_err(VirtioError::Loop)?;
        let (start, device) = mpsc::channel();
        let (beginning, begins) = mpsc::channel();
        let asked = quit.clone();
        let thread = thread::Builder::new()
            .name(format!("virtio{}", slot.index()))
            .spawn(move || {
                sandbox::confine(sandbox::Thread::Device);
                drop(beginning);
                let Ok(device) = device.recv() else {
                    return;
                };
                let quit = asked.clone();
                manager.add_subscriber(Subscriber { device, quit });
                // The poll can only fail with EINTR, which the loop ignores.
                while !asked.wanted.load(Ordering::Acquire) {
                    let _ = manager.run();
                }
            })
            .map_err(VirtioError::Spawn)?;
        Ok(Self {
            start,
            begins,
            quit,
            thread,
        })
    }

    /// Waits until the thread has begun, and has nothing to do but to wait for its device.
    pub(super) fn wait_until_idle(&self) {
        let _ = self.begins.recv();
    }

    /// Makes it the worker of a device, which is parked.
    pub(super) fn take(self, device: LiveDevice) -> Worker {
        Worker {
            device: Arc::new(device),
            start: Mutex::new(Some(self.start)),
            quit: self.quit,
            thread: Some(self.thread),
        }
    }
}

impl Worker {
    /// Lets the device work.
    pub(super) fn unpark(&self) {
        self.device.unpark();
        if let Some(start) = self.start().take() {
            // The thread waits for nothing else.
            let _ = start.send(self.device.clone());
        }
    }

    fn start(&self) -> MutexGuard<'_, Option<Sender<Arc<LiveDevice>>>> {
        self.start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.start().take();
        self.quit.wanted.store(true, Ordering::Release);
        let _ = self.quit.event.write(1);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has already reported it.
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
        // All of these can be polled; otherwise the device would stop working.
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// The names of this process's threads, each of which names itself when it begins.
    fn threads() -> Vec<String> {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let names = tasks.filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    #[test]
    fn a_worker_that_is_idle_has_begun() {
        let slot = Slot::new(7).unwrap();
        for _ in 0..100 {
            let worker = IdleWorker::spawn(slot).unwrap();
            worker.wait_until_idle();
            let names = threads();
            assert!(names.contains(&"virtio7".to_owned()), "{names:?}");
            let IdleWorker { start, thread, .. } = worker;
            drop(start);
            thread.join().unwrap();
        }
    }
}
