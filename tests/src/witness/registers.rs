//! Reads a register of the passed-through card all the time: it must have its value whatever the host does.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::Scope;

use anyhow::{Context, Result};
use fdbox_lab::bar::{Bar0, card::RDLEN};
use fdbox_lab::device::{DESCRIPTOR_BYTES, RING_FRAMES};
use fdbox_lab::witness::WitnessEvent;

use crate::frames;

#[derive(Debug, Default)]
pub(crate) struct Registers {
    started: OnceLock<()>,
    reads: AtomicU64,
    wrong: AtomicU64,
}

impl Registers {
    /// Reads from now on. The card is up.
    pub(crate) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        if self.started.get().is_some() {
            return Ok(());
        }
        let place = PathBuf::from(format!("/sys/class/net/{}/device", frames::card()?));
        // Tried here, where an error is reported.
        drop(Bar0::map(&place)?);
        scope.spawn(move || {
            // Only in time that nobody else wants.
            let priority = libc::sched_param { sched_priority: 0 };
            // SAFETY: the parameter is valid for the call; 0 is this thread.
            let is_idle = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &priority) } == 0;
            match Bar0::map(&place).context("Map the card's registers") {
                Ok(bar) if is_idle => self.read(&bar),
                // Nothing is counted, which is noticed.
                _ => eprintln!("lab-witness: The card's registers cannot be read"),
            }
        });
        self.started.get_or_init(|| ());
        Ok(())
    }

    fn read(&self, bar: &Bar0) {
        loop {
            if bar.read(RDLEN) != RING_FRAMES * DESCRIPTOR_BYTES {
                self.wrong.fetch_add(1, Ordering::Relaxed);
            }
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn event(&self) -> WitnessEvent {
        WitnessEvent::Registers {
            reads: self.reads.load(Ordering::Relaxed),
            wrong: self.wrong.load(Ordering::Relaxed),
        }
    }
}
