//! The VM's interrupt routing table: maps a device's messages to interrupts.
//!
//! The table is always set as a whole, so it also contains KVM's default entries: the lines of the
//! PICs and of the I/O APIC.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::kvm::{KvmError, Vm};

/// The first GSI after the lines of the I/O APIC.
pub(crate) const FIRST_MSI: u32 = 24;

/// What a device writes to raise an interrupt: an address in the interrupt controllers, and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: u64,
    pub(crate) data: u32,
}

/// The destination of a device's interrupts.
pub(crate) trait InterruptLines: fmt::Debug + Send + Sync {
    /// Routes a GSI to a message.
    fn route(&self, gsi: u32, message: Message) -> Result<(), KvmError>;
    /// Connects an event to a GSI: from now on the kernel turns it into the interrupt, at once if
    /// it is pending.
    fn connect(&self, gsi: u32, event: &EventFd) -> Result<(), KvmError>;
    /// Disconnects an event: from now on it accumulates.
    fn disconnect(&self, gsi: u32, event: &EventFd) -> Result<(), KvmError>;
}

/// The routing table of a VM.
#[derive(Debug)]
pub(crate) struct Routes {
    vm: Arc<Vm>,
    messages: Mutex<BTreeMap<u32, Message>>,
}

impl Routes {
    pub(crate) fn new(vm: Arc<Vm>) -> Self {
        Self {
            vm,
            messages: Mutex::default(),
        }
    }
}

impl InterruptLines for Routes {
    fn route(&self, gsi: u32, message: Message) -> Result<(), KvmError> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if messages.insert(gsi, message) == Some(message) {
            return Ok(());
        }
        self.vm.set_routes(&messages)
    }

    fn connect(&self, gsi: u32, event: &EventFd) -> Result<(), KvmError> {
        self.vm.register_irqfd(event, gsi)
    }

    fn disconnect(&self, gsi: u32, event: &EventFd) -> Result<(), KvmError> {
        self.vm.unregister_irqfd(event, gsi)
    }
}
