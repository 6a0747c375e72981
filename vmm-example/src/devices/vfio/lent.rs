//! A device of the host's in the lifeboat: its registers, and its interrupts as
//! [messages](super::messages) in memory.
//!
//! The lifeboat's kernel gives a file that has the regions of a VFIO device and no interrupts. DMA goes
//! on as set up by the host.
//!
//! The host's next kernel disables MSI-X when it finds the device. So whoever looks for messages also
//! looks whether MSI-X is enabled: if not, it enables it, and raises each vector, because a message may
//! not have been sent.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;

use super::VfioError;
use super::device::Physical;
use super::messages::{self, Messages};
use super::msix::{BarRange, VectorStateV1};
use super::spec::PciAddress;
use crate::devices::pci::slot::PciSlot;

/// How often messages are looked for.
const PERIOD: Duration = Duration::from_millis(1);

/// Bits of MSI-X message control.
const ENABLED: u16 = 1 << 15;
const ALL_MASKED: u16 = 1 << 14;
/// What is read from a device that does not respond. Some bits of message control are always zero.
const GONE: u16 = u16::MAX;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct LentDevice {
    shared: Arc<Shared>,
    looking: Mutex<Option<Looking>>,
}

/// What the thread that looks for messages uses, too.
#[derive(Debug)]
struct Shared {
    device: Arc<dyn Physical>,
    address: PciAddress,
    slot: PciSlot,
    /// The location of the MSI-X table.
    table: BarRange,
    /// The offset of message control in configuration space.
    control: usize,
    messages: Arc<Messages>,
}

/// The thread that looks for messages.
#[derive(Debug)]
struct Looking {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl LentDevice {
    pub(super) fn new(
        device: Arc<dyn Physical>,
        (address, slot): (PciAddress, PciSlot),
        (table, control): (BarRange, usize),
        messages: Arc<Messages>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                device,
                address,
                slot,
                table,
                control,
                messages,
            }),
            looking: Mutex::default(),
        }
    }

    fn looking(&self) -> MutexGuard<'_, Option<Looking>> {
        self.looking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Physical for LentDevice {
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        self.shared.device.read_config(offset, data);
    }

    fn write_config(&self, offset: usize, data: &[u8]) {
        // The file lets nothing but the command register through.
        self.shared.device.write_config(offset, data);
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        self.shared.device.read_bar(bar, offset, data);
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) {
        self.shared.device.write_bar(bar, offset, data);
    }

    fn arm(&self, events: &[&EventFd]) -> Result<(), VfioError> {
        let shared = self.shared.clone();
        let event = |source| VfioError::Event {
            address: shared.address.to_string(),
            source,
        };
        let copies = events.iter().map(|event| event.try_clone());
        let events: Vec<EventFd> = copies.collect::<Result<_, _>>().map_err(event)?;
        let ends = Arc::new(AtomicBool::new(false));
        shared.set_table(events.len() as u16);
        shared.enable();
        let thread = {
            let (shared, ends) = (shared.clone(), ends.clone());
            let look = move || shared.look_until(&ends, &events);
            thread::Builder::new()
                .name("vfio-messages".into())
                .spawn(look)
        };
        let thread = thread.map_err(event)?;
        *self.looking() = Some(Looking { ends, thread });
        Ok(())
    }

    fn disarm(&self) -> Result<(), VfioError> {
        if let Some(Looking { ends, thread }) = self.looking().take() {
            ends.store(true, Ordering::Release);
            thread.thread().unpark();
            // It does not panic.
            let _ = thread.join();
        }
        self.shared.disable();
        Ok(())
    }

    fn reset(&self) -> Result<(), VfioError> {
        let address = self.shared.address.to_string();
        Err(VfioError::ResetInLifeboat { address })
    }

    fn duplicate(&self) -> Result<OwnedFd, VfioError> {
        self.shared.device.duplicate()
    }
}

impl Shared {
    /// Has each vector write to its word.
    fn set_table(&self, vectors: u16) {
        for vector in 0..vectors {
            let entry = VectorStateV1 {
                address: messages::address(self.slot, vector),
                data: messages::RAISED,
                masked: false,
            };
            let at = self.table.offset + u64::from(vector) * 16;
            for (word, bytes) in (at..).step_by(4).zip(entry.bytes().chunks(4)) {
                self.device.write_bar(self.table.bar, word, bytes);
            }
        }
    }

    fn control(&self) -> u16 {
        let mut bytes = [0; 2];
        self.device.read_config(self.control, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn set_control(&self, control: u16) {
        self.device
            .write_config(self.control, &control.to_le_bytes());
    }

    fn enable(&self) {
        self.set_control((self.control() | ENABLED) & !ALL_MASKED);
    }

    fn disable(&self) {
        self.set_control(self.control() & !ENABLED);
    }

    fn look_until(&self, ends: &AtomicBool, events: &[EventFd]) {
        while !ends.load(Ordering::Acquire) {
            self.look(events);
            thread::park_timeout(PERIOD);
        }
        self.look(events);
    }

    /// Raises what has arrived.
    fn look(&self, events: &[EventFd]) {
        let control = self.control();
        let was_enabled = control == GONE || control & (ENABLED | ALL_MASKED) == ENABLED;
        if !was_enabled {
            self.enable();
        }
        for (vector, event) in (0..).zip(events) {
            if self.messages.take(self.slot, vector) || !was_enabled {
                // If the counter is full, it is already raised.
                let _ = event.write(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::super::config::tests::MSIX_AT;
    use super::super::testing::{Call, FakeDevice, Log};
    use super::*;

    const CONTROL: usize = MSIX_AT + 2;

    struct Bench {
        log: Log,
        fake: Arc<FakeDevice>,
        lent: LentDevice,
        words: File,
        events: Vec<EventFd>,
    }

    fn bench() -> Bench {
        let log = Log::default();
        let fake = Arc::new(FakeDevice::new(&log));
        let words = File::from(messages::create().unwrap());
        let table = BarRange {
            bar: 3,
            offset: 0x1000,
            len: 80,
        };
        let place = ("0000:01:00.0".parse().unwrap(), slot());
        let messages = Arc::new(Messages::map(words.as_fd()).unwrap());
        let lent = LentDevice::new(fake.clone(), place, (table, CONTROL), messages);
        let event = |_| EventFd::new(EFD_NONBLOCK).unwrap();
        Bench {
            log,
            fake,
            lent,
            words,
            events: (0..2).map(event).collect(),
        }
    }

    fn slot() -> PciSlot {
        PciSlot::all().nth(2).unwrap()
    }

    impl Bench {
        fn arm(&self) {
            let events: Vec<&EventFd> = self.events.iter().collect();
            self.lent.arm(&events).unwrap();
        }

        /// Writes a message, as the device does.
        fn send(&self, vector: u16) {
            let at = messages::address(slot(), vector) - messages::IOVA;
            self.words.write_all_at(&[1, 0, 0, 0], at).unwrap();
        }

        fn set_control(&self, control: u16) {
            let mut config = self.fake.config.lock().unwrap();
            config[CONTROL..CONTROL + 2].copy_from_slice(&control.to_le_bytes());
        }

        fn wait_for(&self, vector: usize) {
            let mut bytes = [0; 8];
            let event = super::super::sys::event_fd(&self.events[vector]);
            let mut ready = [rustix::event::PollFd::from_borrowed_fd(
                event,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut ready, None).unwrap();
            rustix::io::read(event, &mut bytes).unwrap();
        }

        fn is_raised(&self, vector: usize) -> bool {
            self.events[vector].read().is_ok()
        }
    }

    #[test]
    fn each_vector_writes_to_its_word_and_msix_is_enabled_last() {
        let bench = bench();
        bench.arm();
        let calls = bench.log.take();
        let word = |vector| messages::address(slot(), vector) as u32;
        let entry = |vector: u16| {
            let at = 0x1000 + 16 * u64::from(vector);
            let words = [word(vector), 0, messages::RAISED, 0].into_iter();
            let writes = (at..).step_by(4).zip(words);
            writes.map(|(at, word)| Call::Bar(3, at, word))
        };
        let table: Vec<Call> = (0..2).flat_map(entry).collect();
        assert_eq!(calls[..8], table);
        let Call::Config(CONTROL, control) = calls[8] else {
            panic!("{calls:?}")
        };
        assert_eq!(control as u16 & (ENABLED | ALL_MASKED), ENABLED);
        bench.lent.disarm().unwrap();
        let Some(Call::Config(CONTROL, control)) = bench.log.take().pop() else {
            panic!("MSI-X is still enabled")
        };
        assert_eq!(control as u16 & ENABLED, 0);
    }

    #[test]
    fn a_message_raises_its_vector_and_no_other() {
        let bench = bench();
        bench.arm();
        bench.send(1);
        bench.wait_for(1);
        bench.lent.disarm().unwrap();
        assert!(!bench.is_raised(0) && !bench.is_raised(1));
    }

    #[test]
    fn a_message_that_came_last_is_not_lost() {
        let bench = bench();
        bench.arm();
        bench.send(0);
        bench.lent.disarm().unwrap();
        assert!(bench.is_raised(0));
    }

    #[test]
    fn vectors_that_the_next_kernel_has_disabled_are_enabled_and_raised() {
        let bench = bench();
        bench.arm();
        bench.set_control(4);
        bench.wait_for(0);
        bench.wait_for(1);
        let Some(Call::Config(CONTROL, control)) = bench.log.take().pop() else {
            panic!("MSI-X was not enabled")
        };
        assert_eq!(control as u16 & ENABLED, ENABLED);
        bench.lent.disarm().unwrap();
    }

    #[test]
    fn a_device_that_does_not_respond_raises_nothing() {
        let bench = bench();
        bench.set_control(GONE);
        bench.lent.shared.look(&bench.events);
        assert!(!bench.is_raised(0) && !bench.is_raised(1));
    }
}
