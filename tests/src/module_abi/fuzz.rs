//! What the module reads of what the last kernel wrote, with input that no kernel writes: its parsers, built on the
//! host.

#[path = "../../../vmm-fdbox/src/fuzz/mod.rs"]
mod fuzzer;

use super::{Out, crc, golden};
use crate::abi::dma::{self, Device, Item};
use crate::abi::hugetlb::Hugetlb;
use crate::abi::kvm::{GuestMemfd, Vm};
use crate::abi::layout::Layout;
use crate::abi::memfd::{MEMFD, MEMFD_V1, Memfd};
use crate::abi::poison;
use crate::abi::{self, Body, Extent, Root};

/// Reads everything in a handover that is one.
fn read_all(root: Root, bytes: &[u8]) {
    let is_known = root.is_known();
    let Some(body) = Body::check(root, bytes, crc).ok().filter(|_| is_known) else {
        return;
    };
    for found in body.boxes() {
        let found = found.expect("a box of a body that was checked");
        for fd in found.fds() {
            let fd = fd.expect("a descriptor of a body that was checked");
            read_fd(fd.data);
            let extents = body.raw_extents(fd.first_extent, fd.nr_extents);
            for raw in extents.expect("extents of a body that was checked") {
                if let Ok(extent) = Extent::decode(raw) {
                    assert_eq!(extent.encode(), raw);
                }
            }
        }
    }
}

/// Reads the data of a descriptor as that of each kind: what is accepted is written as it was.
fn read_fd(data: &[u8]) {
    let mut out = Out::default();
    let same = |what: &str, written: &mut Out| {
        assert_eq!(written.0, data, "{what}");
        written.0.clear();
    };
    if let Ok(vm) = Vm::decode(data) {
        let Ok(()) = vm.put(&mut out);
        same("a VM", &mut out);
    }
    if let Ok(memory) = GuestMemfd::decode(data) {
        let Ok(()) = memory.put(&mut out);
        same("a guest_memfd", &mut out);
    }
    if let Ok(memfd) = Memfd::decode(MEMFD, data) {
        let Ok(()) = memfd.put(&mut out);
        same("a memfd", &mut out);
    }
    let _ = Memfd::decode(MEMFD_V1, data);
    if let Ok(memfd) = Hugetlb::decode(data) {
        let Ok(()) = memfd.put(&mut out);
        same("a memfd of huge pages", &mut out);
    }
    if let Ok(device) = Device::decode(data) {
        let Ok(()) = device.put(&mut out);
        same("a device", &mut out);
    }
    let items: Result<Vec<Item<'_>>, _> = dma::items(data).collect();
    if let Ok(items) = items {
        for item in items {
            let Ok(()) = item.put(&mut out);
        }
        same("an iommufd", &mut out);
    }
}

fn golden_root() -> Root {
    Root::decode(&golden::HANDOVER_V1[..abi::ROOT_LEN], crc).expect("the golden root")
}

#[test]
fn fuzz_handover() {
    fuzzer::run(
        "handover",
        &[golden::HANDOVER_V1, golden::HANDOVER_V2],
        |input| {
            let (head, body) = input.split_at(input.len().min(abi::ROOT_LEN));
            if let Ok(root) = Root::decode(head, crc) {
                read_all(root, body);
            }
        },
    );
}

/// The body of a handover of each version whose root has the right checksum, and the numbers in the
/// first two bytes.
#[test]
fn fuzz_handover_body() {
    let root = golden_root();
    let numbers = [root.nr_boxes as u8, root.nr_extents as u8];
    let seeds = [golden::HANDOVER_V1, golden::HANDOVER_V2]
        .map(|seed| [&numbers, &seed[abi::ROOT_LEN..]].concat());
    fuzzer::run("handover-body", &[&seeds[0], &seeds[1]], |input| {
        let Some(([nr_boxes, nr_extents], body)) = input.split_first_chunk() else {
            return;
        };
        for version in [abi::VERSION_WITHOUT_LABELS, abi::VERSION] {
            let root = Root {
                version,
                body_len: body.len() as u64,
                body_crc: crc(body),
                nr_boxes: u32::from(*nr_boxes),
                nr_extents: u64::from(*nr_extents),
                ..golden_root()
            };
            read_all(root, body);
        }
    });
}

#[test]
fn fuzz_handover_fd() {
    let seeds = [
        golden::VM,
        golden::GUEST_MEMFD,
        golden::IOMMUFD,
        golden::VFIO_PCI_V1,
        golden::VFIO_PCI_V2,
        golden::MEMFD_V1,
        golden::MEMFD_V2,
        golden::HUGETLB,
    ];
    fuzzer::run("handover-fd", &seeds, read_fd);
}

#[test]
fn fuzz_broken_memory() {
    fuzzer::run("broken-memory", &[golden::BROKEN], |input| {
        let mut page = [0; poison::LEN];
        let len = input.len().min(page.len());
        page[..len].copy_from_slice(&input[..len]);
        let sum = crc(&page[12..]);
        let mut sealed = page;
        sealed[8..12].copy_from_slice(&sum.to_le_bytes());
        for page in [&page, &sealed] {
            if let Some(pages) = poison::decode(page, crc) {
                assert!(pages.count() <= poison::MOST);
            }
        }
    });
}
