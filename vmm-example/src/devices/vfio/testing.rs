//! A device and a VM that record what is done to them.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::EventFd;

use super::VfioError;
use super::bars::BarStateV1;
use super::config::LEN;
use super::config::tests::device;
use super::device::Physical;
use super::windows::Windows;
use crate::devices::pci::routes::{InterruptLines, Message};
use crate::kvm::KvmError;

/// A recorded call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Arm(usize),
    Disarm,
    Reset,
    Route(u32, Message),
    Connect(u32),
    Disconnect(u32),
    Map(u8, Option<u64>),
    Config(usize, u32),
    Bar(u8, u64, u32),
}

/// Records calls, and what the events of vectors contained when they were connected.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<Call>>>);

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

impl Log {
    fn note(&self, call: Call) {
        self.0.lock().unwrap().push(call);
    }

    /// The calls since the last time.
    pub(super) fn take(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn number(data: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes[..data.len().min(4)].copy_from_slice(&data[..data.len().min(4)]);
    u32::from_le_bytes(bytes)
}

/// A device like that in the tests of configuration space.
#[derive(Debug)]
pub(super) struct FakeDevice {
    pub(super) log: Log,
    pub(super) config: Mutex<[u8; LEN]>,
    /// The events that the host's kernel would write to.
    pub(super) events: Mutex<Vec<OwnedFd>>,
}

impl FakeDevice {
    pub(super) fn new(log: &Log) -> Self {
        Self {
            log: log.clone(),
            config: Mutex::new(device()),
            events: Mutex::default(),
        }
    }

    /// Raises an interrupt of the device.
    pub(super) fn interrupt(&self, vector: usize) {
        let events = self.events.lock().unwrap();
        rustix::io::write(&events[vector], &1u64.to_ne_bytes()).unwrap();
    }
}

impl Physical for FakeDevice {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        data.copy_from_slice(&self.config.lock().unwrap()[offset..offset + data.len()]);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        self.log.note(Call::Config(offset, number(data)));
        self.config.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(bar.wrapping_add(offset as u8));
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        self.log.note(Call::Bar(bar, offset, number(data)));
    }

    fn arm(&self, events: &[&EventFd]) -> Result<(), VfioError> {
        self.log.note(Call::Arm(events.len()));
        let events = events.iter().map(|event| super::sys::event_fd(event));
        let copies = events.map(|event| event.try_clone_to_owned().unwrap());
        *self.events.lock().unwrap() = copies.collect();
        Ok(())
    }

    fn disarm(&self) -> Result<(), VfioError> {
        self.log.note(Call::Disarm);
        Ok(())
    }

    fn reset(&self) -> Result<(), VfioError> {
        self.log.note(Call::Reset);
        Ok(())
    }

    fn duplicate(&self) -> Result<OwnedFd, VfioError> {
        let file = tempfile::tempfile().unwrap();
        Ok(file.as_fd().try_clone_to_owned().unwrap())
    }
}

#[derive(Debug)]
pub(super) struct FakeLines(pub(super) Log);

impl InterruptLines for FakeLines {
    fn route(&self, gsi: u32, message: Message) -> Result<(), KvmError> {
        self.0.note(Call::Route(gsi, message));
        Ok(())
    }

    fn connect(&self, gsi: u32, _: &EventFd) -> Result<(), KvmError> {
        self.0.note(Call::Connect(gsi));
        Ok(())
    }

    fn disconnect(&self, gsi: u32, _: &EventFd) -> Result<(), KvmError> {
        self.0.note(Call::Disconnect(gsi));
        Ok(())
    }
}

#[derive(Debug)]
pub(super) struct FakeWindows(pub(super) Log, pub(super) Vec<(u8, Option<u64>)>);

impl Windows for FakeWindows {
    fn place(&mut self, bar: &BarStateV1, address: Option<u64>) -> Result<(), KvmError> {
        let old = self.1.iter().find(|(of, _)| *of == bar.index);
        if old.and_then(|(_, address)| *address) != address {
            self.0.note(Call::Map(bar.index, address));
            self.1.retain(|(of, _)| *of != bar.index);
            self.1.push((bar.index, address));
        }
        Ok(())
    }
}
