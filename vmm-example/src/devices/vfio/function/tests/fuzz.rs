//! A guest that does to a device whatever it can, and saved states that may not be sane.

use super::super::super::open::check;
use super::*;
use crate::fuzz::Input;

/// Few enough to have an event each.
const MAX_VECTORS: usize = 64;
const MAX_ACTIONS: usize = 200;

/// The sizes of the BARs that the device has.
fn size(bar: u8) -> u64 {
    let bars = bars();
    let found = bars.iter().find(|found| found.index == bar);
    found.map_or(0, |found| found.size)
}

/// An address in or near a BAR, which may have been moved.
fn address(input: &mut Input<'_>) -> u64 {
    let base = match input.u8() % 5 {
        0 => BAR0,
        1 | 2 => BAR3,
        3 => PENDING,
        _ => u64::from(input.u32()),
    };
    base + u64::from(input.u16())
}

fn drive(bench: &Bench, input: &mut Input<'_>) {
    let function = &bench.function;
    for _ in 0..MAX_ACTIONS {
        if input.is_empty() {
            return;
        }
        // The bus passes on accesses of these widths, none of which crosses a register's end.
        let (action, len) = (input.u8(), 1 << (input.u8() % 3));
        let offset = input.u8() & !(len as u8 - 1);
        let mut data = [0; 8];
        match action % 8 {
            0 => function.read_config(offset, &mut data[..len]),
            1 | 2 => function.write_config(offset, &input.u32().to_le_bytes()[..len]),
            3 => {
                let _ = function.read_memory(address(input), &mut data[..2 * len]);
            }
            4 | 5 => {
                let at = address(input);
                let _ = function.write_memory(at, &input.u64().to_le_bytes()[..2 * len]);
            }
            6 => {
                let events = bench.device.events.lock().unwrap().len();
                match events {
                    0 => function.reset(),
                    _ => bench.device.interrupt(usize::from(offset) % events),
                }
            }
            _ => {
                function.park();
                function.save();
                function.unpark();
            }
        }
        bench.log.take();
    }
}

#[test]
fn fuzz_pci() {
    let memory = [1, 1, 4, 6, 4, 0, 0];
    let vector = [4, 2, 0, 1, 0, 0, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0];
    let msix = [1, 1, MSIX_AT as u8 + 2, 0, 0x80, 0, 0];
    let seed = [&memory[..], &vector, &msix, &[6, 0, 0], &[7, 0, 0], &msix].concat();
    crate::fuzz::run("pci", &[&seed], |input| {
        let config = ConfigSpace::new(&device(), bars(), &[BAR0, BAR3]).unwrap();
        let bench = bench(config, MsixTable::new(5));
        bench.function.unpark();
        drive(&bench, &mut Input::new(input));
        bench.function.park();
        check(&bench.function.save(), size).expect("a state that its own VMM accepts");
    });
}

#[test]
fn fuzz_pci_state() {
    let bench_of_seed = new_device();
    bench_of_seed.set_up();
    let mut seed = Vec::new();
    ciborium::into_writer(&bench_of_seed.function.save(), &mut seed).unwrap();
    crate::fuzz::run("pci-state", &[&seed], |mut input| {
        let Ok(saved) = ciborium::from_reader::<VfioStateV1, _>(&mut input) else {
            return;
        };
        let Ok((config, table)) = check(&saved, size) else {
            return;
        };
        if table.vectors().len() > MAX_VECTORS {
            return;
        }
        let bench = bench(config, table);
        let again = bench.function.save();
        assert_eq!((again.config, again.bars), (saved.config, saved.bars));
        assert_eq!(again.msix, saved.msix);
        bench.function.unpark();
        drive(&bench, &mut Input::new(input));
    });
}
