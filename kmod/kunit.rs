// SPDX-License-Identifier: GPL-2.0

//! KUnit tests of functions that touch no file or other kernel. (Those in `kunit_boxes` have files.) They run when the module is loaded, in a kernel with
//! `CONFIG_KUNIT=y`. The encoding in `abi/` is also tested on the host, against golden files.

use crate::abi::Extent;
use kernel::prelude::*;

/// `folios` folios of `order` from page frame `pfn` upwards.
fn up(pfn: u64, folios: u64, order: u32) -> Extent {
    Extent {
        pfn,
        folios,
        order,
        down: false,
    }
}

/// The same from `pfn` downwards.
fn down(pfn: u64, folios: u64, order: u32) -> Extent {
    Extent {
        down: true,
        ..up(pfn, folios, order)
    }
}

fn encoded(extents: &[Extent]) -> Result<KVVec<u64>> {
    let mut raw = KVVec::with_capacity(extents.len(), GFP_KERNEL)?;
    for extent in extents {
        raw.push(extent.encode(), GFP_KERNEL)?;
    }
    Ok(raw)
}

#[kunit_tests(fdbox_abi)]
mod abi {
    use super::*;
    use crate::abi::{
        name_is_valid,
        Body,
        Malformed,
        Root,
        ROOT_LEN,
        VERSION, //
    };
    use crate::kexec::kho::crc32;

    fn root(body: &[u8]) -> Root {
        Root {
            version: VERSION,
            body_len: body.len() as u64,
            body_crc: crc32(body),
            nr_boxes: 0,
            nr_extents: body.len() as u64 / 8,
            body_vmalloc: [7; 16],
            producer: [b'7'; 64],
        }
    }

    #[test]
    fn the_checksum_is_that_of_ieee_802_3() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_root_comes_back() {
        let root = root(b"");
        assert!(Root::decode(&root.encode(crc32), crc32) == Ok(root));
    }

    #[test]
    fn a_root_is_refused_with_any_bit_wrong() {
        let good = root(b"").encode(crc32);
        for at in 0..ROOT_LEN {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(Root::decode(&bad, crc32).is_err());
        }
        assert!(Root::decode(&good[..ROOT_LEN - 1], crc32) == Err(Malformed::Truncated));
    }

    #[test]
    fn a_body_is_refused_with_its_checksum_wrong() {
        let body = up(1, 1, 0).encode().to_le_bytes();
        let mut root = root(&body);
        root.body_crc ^= 1;
        let refused = Body::check(root, &body, crc32);
        assert!(matches!(refused, Err(Malformed::BodyChecksum)));
    }

    #[test]
    fn an_extent_that_nobody_owns_is_refused() {
        let body = up(1, 1, 0).encode().to_le_bytes();
        let refused = Body::check(root(&body), &body, crc32);
        assert!(matches!(refused, Err(Malformed::Trailing)));
    }

    #[test]
    fn extents_come_back() {
        for extent in [
            up(1, 1, 0),
            down(1 << 18, 1 << 18, 0),
            up((1 << 40) - 1, 1 << 18, 0),
            up(1 << 30, 1, 30),
            down(3 << 9, 2, 9),
        ] {
            assert!(Extent::decode(extent.encode()) == Ok(extent));
        }
    }

    #[test]
    fn impossible_extents_are_refused() {
        for extent in [up(0, 1, 0), up(1, 1, 9), up(1 << 31, 1, 31), down(1, 2, 0)] {
            assert!(Extent::decode(extent.encode()).is_err());
        }
    }

    #[test]
    fn names_are_those_that_a_device_node_can_have() {
        for name in [&b"a"[..], b"...", b"with space", &[0xff; 255]] {
            assert!(name_is_valid(name));
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'a'; 256]] {
            assert!(!name_is_valid(name));
        }
    }
}

#[kunit_tests(fdbox_record)]
mod record {
    use super::*;
    use crate::abi::MAX_DATA_LEN;
    use crate::kexec::record::Record;

    /// Extents of a record to which folios of `order` at these page frames were pushed.
    fn pushed(folios: &[(u64, u32)]) -> Result<Record> {
        let mut record = Record::default();
        for &(pfn, order) in folios {
            record.push(pfn, order)?;
        }
        Ok(record)
    }

    #[test]
    fn neighbours_become_one_extent_either_way() -> Result {
        let record = pushed(&[(5, 0), (6, 0), (7, 0)])?;
        assert!(record.extents() == &encoded(&[up(5, 3, 0)])?[..]);
        let record = pushed(&[(7, 0), (6, 0), (5, 0)])?;
        assert!(record.extents() == &encoded(&[down(7, 3, 0)])?[..]);
        Ok(())
    }

    #[test]
    fn what_does_not_continue_is_an_extent_of_its_own() -> Result {
        // A gap, a turn, and another folio order.
        let record = pushed(&[(5, 0), (7, 0)])?;
        assert!(record.extents() == &encoded(&[up(5, 1, 0), up(7, 1, 0)])?[..]);
        let record = pushed(&[(5, 0), (6, 0), (3, 0)])?;
        assert!(record.extents() == &encoded(&[up(5, 2, 0), up(3, 1, 0)])?[..]);
        let record = pushed(&[(7, 0), (8, 3)])?;
        assert!(record.extents() == &encoded(&[up(7, 1, 0), up(8, 1, 3)])?[..]);
        Ok(())
    }

    #[test]
    fn an_extent_ends_when_it_is_full() -> Result {
        let mut record = Record::default();
        for pfn in 1..=Extent::MAX_FOLIOS + 1 {
            record.push(pfn, 0)?;
        }
        let full = up(1, Extent::MAX_FOLIOS, 0);
        let next = up(1 + Extent::MAX_FOLIOS, 1, 0);
        assert!(record.extents() == &encoded(&[full, next])?[..]);
        assert_eq!(record.pages(), Extent::MAX_FOLIOS + 1);
        Ok(())
    }

    #[test]
    fn folios_lie_at_multiples_of_their_size() -> Result {
        assert!(pushed(&[(8, 3), (16, 3), (1, 0)])?.is_aligned());
        assert!(!pushed(&[(1, 0), (8, 3)])?.is_aligned());
        Ok(())
    }

    #[test]
    fn data_has_a_limit() -> Result {
        let mut record = Record::default();
        let half = KVVec::from_elem(1u8, MAX_DATA_LEN / 2, GFP_KERNEL)?;
        record.write(&half)?;
        record.write(&half)?;
        assert!(record.write(&[1]) == Err(EFBIG));
        assert_eq!(record.data().len(), MAX_DATA_LEN);
        Ok(())
    }

    #[test]
    fn what_overlaps_is_said_when_it_is_asked_for() -> Result {
        let overlapping = encoded(&[up(8, 4, 0), up(10, 1, 0)])?;
        let record = Record::new(b"", overlapping)?;
        assert!(record.kept() == Err(EIO));
        Ok(())
    }
}

#[kunit_tests(fdbox_coalesce)]
mod coalesce {
    use super::*;
    use crate::kexec::coalesce::coalesced;

    fn is(extents: &[Extent], may_repeat: bool, expected: &[Extent]) -> Result<bool> {
        let found = coalesced(&encoded(extents)?, may_repeat)?;
        Ok(found[..] == encoded(expected)?[..])
    }

    #[test]
    fn two_places_by_turns_are_two_runs() -> Result {
        let by_turns = [up(100, 2, 0), up(900, 2, 0), up(102, 2, 0), up(902, 2, 0)];
        assert!(is(&by_turns, false, &[up(100, 4, 0), up(900, 4, 0)])?);
        Ok(())
    }

    #[test]
    fn single_pages_of_many_places_are_a_run() -> Result {
        // As the page allocator returns them: from one block after the other, each from its end,
        // over more addresses than one digit of the sort distinguishes.
        const BLOCKS: u64 = 700;
        const BLOCK: u64 = 0x201;
        let mut extents = KVVec::new();
        for page in (0..BLOCK).rev() {
            for block in 0..BLOCKS {
                extents.push(up(1 + block * BLOCK + page, 1, 0), GFP_KERNEL)?;
            }
        }
        let pages = BLOCKS * BLOCK;
        let (first, rest) = (Extent::MAX_FOLIOS, pages - Extent::MAX_FOLIOS);
        let runs = [up(1, first, 0), up(1 + first, rest, 0)];
        assert!(is(&extents, false, &runs)?);
        // The same page again, far from its first position.
        extents.push(up(1, 1, 0), GFP_KERNEL)?;
        assert!(matches!(coalesced(&encoded(&extents)?, false), Err(EIO)));
        assert!(is(&extents, true, &runs)?);
        Ok(())
    }

    #[test]
    fn the_direction_does_not_matter() -> Result {
        assert!(is(&[down(9, 4, 0)], false, &[up(6, 4, 0)])?);
        assert!(is(&[down(9, 4, 0), up(10, 1, 0)], false, &[up(6, 5, 0)])?);
        Ok(())
    }

    #[test]
    fn they_are_sorted_and_orders_stay_apart() -> Result {
        let found = [up(512, 1, 9), up(7, 1, 0), up(511, 1, 0)];
        assert!(is(
            &found,
            false,
            &[up(7, 1, 0), up(511, 1, 0), up(512, 1, 9)]
        )?);
        Ok(())
    }

    #[test]
    fn a_run_is_no_longer_than_an_extent_can_be() -> Result {
        let most = Extent::MAX_FOLIOS;
        let two = [up(1, most, 0), up(1 + most, 2, 0)];
        assert!(is(&two, false, &two)?);
        Ok(())
    }

    #[test]
    fn overlaps_are_refused() -> Result {
        let overlapping = encoded(&[up(8, 4, 0), up(11, 1, 0)])?;
        assert!(matches!(coalesced(&overlapping, false), Err(EIO)));
        let orders = encoded(&[up(512, 1, 9), up(600, 1, 0)])?;
        assert!(matches!(coalesced(&orders, true), Err(EIO)));
        Ok(())
    }

    #[test]
    fn what_repeats_is_one_only_where_it_may() -> Result {
        let twice = [up(8, 4, 0), up(8, 4, 0)];
        assert!(is(&twice, true, &twice[..1])?);
        assert!(matches!(coalesced(&encoded(&twice)?, false), Err(EIO)));
        Ok(())
    }
}

#[kunit_tests(fdbox_name)]
mod name {
    use super::*;
    use crate::abi::NAME_LEN;
    use crate::name::Name;

    #[test]
    fn a_name_comes_back_from_an_array() -> Result {
        let mut array = [0; NAME_LEN];
        array[..6].copy_from_slice(b"memory");
        let name = Name::from_array(&array)?;
        assert!(name.as_bytes() == b"memory");
        assert!(name.to_array() == array);
        assert!(name.try_clone()? == name);
        Ok(())
    }

    #[test]
    fn an_array_without_a_nul_is_no_name() {
        assert!(matches!(Name::from_array(&[b'a'; NAME_LEN]), Err(EINVAL)));
        assert!(matches!(Name::from_array(&[0; NAME_LEN]), Err(EINVAL)));
    }

    #[test]
    fn names_are_ordered_by_their_bytes() -> Result {
        assert!(Name::new(b"a")? < Name::new(b"b")?);
        assert!(Name::new(b"a")? < Name::new(b"aa")?);
        assert!(Name::new(b"\x7f")? < Name::new(b"\x80")?);
        Ok(())
    }
}

#[kunit_tests(fdbox_host)]
mod host {
    use crate::ffi;
    use crate::kexec::blob::copy_of_host;
    use kernel::prelude::*;

    fn refused(at: u64) -> bool {
        copy_of_host(at, &mut [0; 64]) == Err(EAGAIN)
    }

    #[test]
    fn memory_of_this_kernel_is_not_the_hosts() -> Result {
        let own = KBox::new([0_u8; 64], GFP_KERNEL)?;
        // SAFETY: The memory of a `KBox` is in the direct map.
        assert!(refused(unsafe {
            ffi::fdbox_shim_phys_of(own.as_ptr().cast())
        }));
        Ok(())
    }

    #[test]
    fn memory_that_no_processor_can_address_is_refused() {
        assert!(refused(1 << 60));
        assert!(refused(u64::MAX - 63));
    }

    #[test]
    fn no_address_and_a_range_that_wraps_are_refused() {
        assert!(refused(0));
        assert!(refused(u64::MAX - 31));
    }
}
