//! A driver sets up a device, is parked together with it, and finds it unchanged.

mod fuzz;

use std::sync::Arc;

use super::super::config::tests::{MSIX_AT, bars, device};
use super::super::testing::{Call, FakeDevice, FakeLines, FakeWindows, Log};
use super::*;
use crate::devices::pci::routes::Message;

const BAR0: u64 = 0xe000_0000;
/// The BAR with five vectors: the table is in its first page, the pending bits are in its third.
const BAR3: u64 = 0xe002_0000;
const PENDING: u64 = BAR3 + 0x2000;
const FIRST_GSI: u32 = 30;

struct Bench {
    log: Log,
    device: Arc<FakeDevice>,
    function: Function,
}

fn bench(config: ConfigSpace, table: MsixTable) -> Bench {
    let log = Log::default();
    let device = Arc::new(FakeDevice::new(&log));
    let identity = Identity {
        slot: PciSlot::new(2).unwrap(),
        address: "0000:01:00.0".parse().unwrap(),
        device_id: 7,
        page_table_id: 8,
    };
    let vectors = Vectors::new(
        Arc::new(FakeLines(log.clone())),
        FIRST_GSI,
        config.msix_layout().vectors,
    )
    .unwrap();
    let inner = Inner {
        config,
        table,
        vectors,
        windows: Box::new(FakeWindows(log.clone(), Vec::new())),
    };
    let function = Function::new(identity, device.clone(), inner);
    Bench {
        log,
        device,
        function,
    }
}

fn new_device() -> Bench {
    let config = ConfigSpace::new(&device(), bars(), &[BAR0, BAR3]).unwrap();
    let bench = bench(config, MsixTable::new(5));
    // Before the guest runs, interrupt lines are disabled and memory is enabled.
    assert_eq!(bench.log.take(), [Call::Config(COMMAND, 0x0402)]);
    bench.function.unpark();
    assert_eq!(bench.log.take(), [], "there is nothing to raise yet");
    bench
}

impl Bench {
    fn write(&self, addr: u64, value: u32) {
        assert!(self.function.write_memory(addr, &value.to_le_bytes()));
    }

    fn vector(&self, vector: u64, data: u32, control: u32) {
        let entry = BAR3 + 16 * vector;
        self.write(entry, 0xfee0_0000);
        self.write(entry + 4, 0);
        self.write(entry + 8, data);
        self.write(entry + 12, control);
    }

    /// Sets up the device as a driver does: memory and bus mastering, two vectors, MSI-X.
    fn set_up(&self) {
        self.function.write_config(4, &0x0406u16.to_le_bytes());
        self.vector(0, 0x41, 0);
        self.vector(1, 0x42, 1);
        let control = MSIX_AT as u8 + 2;
        self.function
            .write_config(control, &0x8000u16.to_le_bytes());
    }

    fn pending(&self) -> u8 {
        let mut data = [0; 8];
        assert!(self.function.read_memory(PENDING, &mut data));
        assert_eq!(data[1..], [0; 7]);
        data[0]
    }
}

fn message(data: u32) -> Message {
    Message {
        address: 0xfee0_0000,
        data,
    }
}

#[test]
fn a_driver_sets_the_device_up() {
    let bench = new_device();
    bench.set_up();
    let expected = [
        // The guest cannot switch memory and interrupt lines.
        Call::Config(COMMAND, 0x0406),
        Call::Map(0, Some(BAR0)),
        Call::Map(3, Some(BAR3)),
        Call::Arm(5),
        Call::Route(FIRST_GSI, message(0x41)),
        Call::Connect(FIRST_GSI),
    ];
    assert_eq!(
        bench.log.take(),
        expected,
        "the masked vector is not connected"
    );
}

#[test]
fn what_comes_while_a_vector_is_masked_is_pending_until_it_is_not() {
    let bench = new_device();
    bench.set_up();
    bench.device.interrupt(1);
    assert_eq!(bench.pending(), 0b10);
    bench.log.take();
    bench.vector(1, 0x43, 0);
    let expected = [
        Call::Route(FIRST_GSI + 1, message(0x43)),
        Call::Connect(FIRST_GSI + 1),
    ];
    assert_eq!(bench.log.take(), expected);
    assert_eq!(bench.pending(), 0);
}

#[test]
fn all_vectors_can_be_masked_at_once_and_switched_off() {
    let bench = new_device();
    bench.set_up();
    bench.log.take();
    let control = MSIX_AT as u8 + 2;
    bench
        .function
        .write_config(control, &0xc000u16.to_le_bytes());
    assert_eq!(bench.log.take(), [Call::Disconnect(FIRST_GSI)]);
    bench.device.interrupt(0);
    bench.function.write_config(control, &0u16.to_le_bytes());
    assert_eq!(bench.log.take(), [Call::Disarm]);
    assert_eq!(bench.pending(), 0, "it is off");
}

#[test]
fn memory_is_where_the_guest_puts_it_while_it_is_on() {
    let bench = new_device();
    bench.set_up();
    bench.log.take();
    bench.function.write_config(4, &0x0404u16.to_le_bytes());
    let gone = [
        Call::Config(COMMAND, 0x0406),
        Call::Map(0, None),
        Call::Map(3, None),
    ];
    assert_eq!(bench.log.take(), gone, "the device itself stays on");
    assert!(!bench.function.read_memory(BAR3, &mut [0; 4]));
    bench
        .function
        .write_config(0x10, &0xf000_0000u32.to_le_bytes());
    bench.function.write_config(4, &0x0406u16.to_le_bytes());
    assert!(bench.log.take().contains(&Call::Map(0, Some(0xf000_0000))));
}

#[test]
fn what_is_no_table_is_the_devices() {
    let bench = new_device();
    bench.set_up();
    bench.log.take();
    bench.write(BAR3 + 0x60, 5);
    bench.write(PENDING, 5);
    assert_eq!(
        bench.log.take(),
        [Call::Bar(3, 0x60, 5)],
        "what is pending is not written"
    );
    let mut data = [0; 4];
    assert!(bench.function.read_memory(BAR3 + 0x60, &mut data));
    assert_eq!(data, [0x63; 4]);
    assert!(!bench.function.read_memory(BAR3 + 0x4000, &mut data));
}

#[test]
fn after_a_pause_each_vector_is_raised_once() {
    let bench = new_device();
    bench.set_up();
    bench.log.take();
    bench.function.park();
    assert_eq!(bench.log.take(), [Call::Disconnect(FIRST_GSI)]);
    assert_eq!(bench.pending(), 0);
    bench.function.unpark();
    assert_eq!(
        bench.log.take(),
        [Call::Connect(FIRST_GSI)],
        "it was never off"
    );
    // The connected one was written as well: here nothing reads what KVM would.
    assert_eq!(bench.pending(), 0b10, "the masked one waits");
    bench.function.park();
    assert_eq!(bench.pending(), 0b11);
}

#[test]
fn a_device_that_was_switched_off_for_its_host_is_switched_on_again() {
    let bench = new_device();
    bench.set_up();
    bench.log.take();
    bench.function.park();
    bench.function.disarm().unwrap();
    bench.function.disarm().unwrap();
    assert_eq!(
        bench.log.take(),
        [Call::Disconnect(FIRST_GSI), Call::Disarm]
    );
    bench.function.unpark();
    assert_eq!(bench.log.take(), [Call::Arm(5), Call::Connect(FIRST_GSI)]);
}

#[test]
fn the_next_process_finds_the_device_as_it_was() {
    let old = new_device();
    old.set_up();
    old.function.park();
    let state = old.function.save();
    assert_eq!(
        (state.slot, state.device_id, state.page_table_id),
        (2, 7, 8)
    );
    let image = state.config.as_slice().try_into().unwrap();
    let config = ConfigSpace::from_image(image, state.bars.clone()).unwrap();
    let new = bench(config, MsixTable::from_state(&state.msix));
    // Bus mastering is never interrupted.
    assert_eq!(new.log.take(), [Call::Config(COMMAND, 0x0406)]);
    new.function.unpark();
    let expected = [
        Call::Map(0, Some(BAR0)),
        Call::Map(3, Some(BAR3)),
        Call::Arm(5),
        Call::Route(FIRST_GSI, message(0x41)),
        Call::Connect(FIRST_GSI),
    ];
    assert_eq!(new.log.take(), expected);
    new.function.park();
    assert_eq!(new.pending(), 0b11, "each vector was raised");
    assert_eq!(new.function.save(), state);
}

#[test]
fn the_devices_own_registers_are_read_from_the_device() {
    let bench = new_device();
    let express = super::super::config::tests::EXPRESS_AT;
    bench.device.config.lock().unwrap()[express + 10] = 0x5a;
    let mut data = [0; 4];
    bench.function.read_config(express as u8 + 8, &mut data);
    assert_eq!(data, [0, 0, 0x5a, 0]);
    bench
        .function
        .write_config(express as u8 + 8, &0x1234u16.to_le_bytes());
    assert_eq!(bench.log.take(), [Call::Config(express + 8, 0x1234)]);
}
