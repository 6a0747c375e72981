use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Clock {
    tsc_offset: i64,
    #[serde(default)]
    regs: Opaque,
}

fn clock() -> Clock {
    Clock {
        tsc_offset: -42,
        regs: Opaque(vec![0xab; 20]),
    }
}

fn sample() -> Vec<u8> {
    let mut buffer = vec![0xee; 2048];
    let mut writer = FrameWriter::new(&mut buffer, "test-vmm 1.2.3")
        .unwrap()
        .generation(7);
    writer.add("clock", 2, Need::Required, &clock()).unwrap();
    writer
        .add_bytes("note", 1, Need::Optional, b"hello")
        .unwrap();
    let size = writer.finish().unwrap();
    buffer.truncate(size);
    buffer
}

fn table_at(frame: &[u8]) -> usize {
    frame.len() - 2 * ENTRY_BYTES
}

#[test]
fn what_is_written_is_read() {
    let bytes = sample();
    let frame = Frame::parse(&bytes).unwrap();
    assert_eq!(frame.producer(), "test-vmm 1.2.3");
    assert_eq!(frame.architecture(), std::env::consts::ARCH);
    assert_eq!(
        (frame.generation(), frame.format(), frame.size()),
        (7, (1, 0), bytes.len())
    );
    assert_eq!(frame.read::<Clock>("clock").unwrap(), clock());
    assert_eq!(frame.payload("note"), Some(&b"hello"[..]));
    assert_eq!(frame.version("clock"), Some(2));
    let sections: Vec<_> = frame
        .sections()
        .map(|s| (s.name, s.need, s.bytes))
        .collect();
    assert_eq!(sections[1], ("note".to_owned(), Need::Optional, 5));
    assert!(matches!(
        frame.read::<Clock>("nope"),
        Err(FrameError::MissingSection { .. })
    ));
    let optional = |name, oldest, newest| {
        let known = KnownSection::new(name, oldest, newest);
        frame.read_optional::<Clock>(known).unwrap()
    };
    assert_eq!(optional("nope", 1, 9), None);
    assert_eq!(optional("clock", 1, 2), Some(clock()));
    // A section of a later release, which this program can do without.
    assert_eq!(optional("clock", 1, 1), None);
    assert_eq!(optional("clock", 3, 4), None);
}

#[test]
fn fields_are_found_by_name() {
    #[derive(Serialize)]
    struct Newer {
        new_field: Vec<u8>,
        tsc_offset: i64,
    }
    let mut buffer = vec![0; 1024];
    let mut writer = FrameWriter::new(&mut buffer, "newer").unwrap();
    let newer = Newer {
        new_field: vec![1],
        tsc_offset: 5,
    };
    writer.add("clock", 2, Need::Required, &newer).unwrap();
    writer.finish().unwrap();
    let read: Clock = Frame::parse(&buffer).unwrap().read("clock").unwrap();
    assert_eq!(
        read,
        Clock {
            tsc_offset: 5,
            regs: Opaque::default()
        }
    );
}

#[test]
fn unknown_required_sections_are_named() {
    let bytes = sample();
    let frame = Frame::parse(&bytes).unwrap();
    assert!(frame.check(&[KnownSection::new("clock", 1, 2)]).is_ok());
    let unknown = frame.check(&[]).unwrap_err();
    assert_eq!(unknown.len(), 1);
    assert!(unknown[0].is_blocker());
    assert!(
        unknown[0]
            .to_string()
            .starts_with("Section 'clock': test-vmm 1.2.3 wrote it")
    );
    let old = frame
        .check(&[KnownSection::new("clock", 1, 1)])
        .unwrap_err();
    assert!(
        old[0]
            .to_string()
            .contains("version 2, this binary reads 1 to 1"),
        "{}",
        old[0]
    );
    assert!(frame.check(&[KnownSection::new("clock", 3, 4)]).is_err());
}

#[test]
fn another_architecture_is_refused() {
    let mut buffer = vec![0; 512];
    let writer = FrameWriter::new(&mut buffer, "x")
        .unwrap()
        .architecture("riscv64");
    writer.finish().unwrap();
    let blockers = Frame::parse(&buffer).unwrap().check(&[]).unwrap_err();
    assert!(
        blockers[0].to_string().contains("riscv64"),
        "{}",
        blockers[0]
    );
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = sample();
    let frame = Frame::parse(&good).unwrap();
    let payloads: Vec<_> = ["clock", "note"]
        .map(|name| frame.payload(name).unwrap().len())
        .into();
    let padding = good.len() - HEADER_BYTES - 2 * ENTRY_BYTES - payloads.iter().sum::<usize>();
    let mut unnoticed = 0;
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            match Frame::parse(&bad) {
                Err(_) => {}
                // Only unused bytes may change without an error: the gaps between payloads.
                Ok(_) => {
                    assert!((HEADER_BYTES..table_at(&good)).contains(&at), "byte {at}");
                    unnoticed += 1;
                }
            }
        }
    }
    assert_eq!(unnoticed, padding * 8);
}

#[test]
fn every_truncation_is_noticed() {
    let good = sample();
    for length in 0..good.len() {
        assert!(Frame::parse(&good[..length]).is_err(), "{length} bytes");
    }
}

/// Wrong lengths, with a matching checksum.
#[test]
fn hostile_lengths_are_refused() {
    let good = sample();
    let fields: [(usize, usize); 5] = [(12, 4), (88, 8), (96, 8), (104, 4), (108, 4)];
    for (at, size) in fields {
        for value in [
            0,
            1,
            63,
            127,
            4097,
            u64::from(u32::MAX),
            u64::MAX - 7,
            u64::MAX,
        ] {
            let mut bad = good.clone();
            bad[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            fix_checksum(&mut bad);
            assert!(Frame::parse(&bad).is_err(), "{value} at {at}");
        }
    }
    for at in [40, 48] {
        for value in [0, 1, 127, good.len() as u64, u64::MAX] {
            let mut bad = good.clone();
            let at = table_at(&good) + at;
            bad[at..at + 8].copy_from_slice(&value.to_le_bytes());
            fix_checksum(&mut bad);
            assert!(Frame::parse(&bad).is_err(), "{value} at {at}");
        }
    }
}

fn fix_checksum(frame: &mut [u8]) {
    let table = table_at(frame);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&frame[..124]);
    crc.update(&frame[table..]);
    frame[124..128].copy_from_slice(&crc.finalize().to_le_bytes());
}

#[test]
fn a_frame_half_written_is_told_from_a_corrupt_one() {
    assert!(matches!(Frame::parse([0; 512]), Err(FrameError::Empty)));
    let mut torn = sample();
    torn[..8].fill(0);
    assert!(matches!(Frame::parse(&torn), Err(FrameError::Incomplete)));
    let mut torn = sample();
    torn[120..128].fill(0);
    assert!(matches!(Frame::parse(&torn), Err(FrameError::Incomplete)));
    assert!(matches!(
        Frame::parse([0x55; 512]),
        Err(FrameError::BadMagic)
    ));
    let mut future = sample();
    future[8] = 2;
    let error = Frame::parse(&future).unwrap_err();
    assert!(
        matches!(error, FrameError::UnknownFormat { major: 2, minor: 0 }),
        "{error}"
    );
}

#[test]
fn a_writer_that_stops_leaves_no_frame() {
    let mut buffer = sample();
    let mut writer = FrameWriter::new(&mut buffer, "again").unwrap();
    writer.add("clock", 1, Need::Required, &1u8).unwrap();
    drop(writer);
    assert!(matches!(Frame::parse(&buffer), Err(FrameError::Empty)));
}

#[test]
fn writers_refuse_what_readers_would() {
    let mut buffer = vec![0; 300];
    let mut writer = FrameWriter::new(&mut buffer, "x").unwrap();
    for bad in [
        "",
        "Upper",
        "sp ace",
        "ümlaut",
        "x123456789012345678901234567890123",
    ] {
        let result = writer.add(bad, 1, Need::Optional, &0u8);
        assert!(
            matches!(result, Err(FrameError::BadSectionName { .. })),
            "{bad}"
        );
    }
    writer.add("a", 1, Need::Optional, &0u8).unwrap();
    let again = writer.add("a", 1, Need::Optional, &0u8);
    assert!(matches!(again, Err(FrameError::DuplicateSection { .. })));
    let large = writer.add_bytes("b", 1, Need::Optional, &[0; 300]);
    assert!(matches!(large, Err(FrameError::TooLarge { .. })));
    assert!(FrameWriter::new(&mut [0; 127], "x").is_err());
    assert!(writer.finish().is_ok());
}

#[test]
fn payloads_end_where_their_value_ends() {
    let mut buffer = vec![0; 512];
    let mut writer = FrameWriter::new(&mut buffer, "x").unwrap();
    writer.add_bytes("two", 1, Need::Optional, &[1, 2]).unwrap();
    writer.add_bytes("none", 1, Need::Optional, &[]).unwrap();
    writer.finish().unwrap();
    let frame = Frame::parse(&buffer).unwrap();
    let two = frame.read::<u8>("two");
    assert!(matches!(
        two,
        Err(FrameError::TrailingBytes { bytes: 1, .. })
    ));
    assert!(matches!(
        frame.read::<u8>("none"),
        Err(FrameError::Decode { .. })
    ));
}

#[test]
fn a_long_producer_is_cut_between_characters() {
    let mut buffer = vec![0; 512];
    let long = format!("{}ü", "x".repeat(47));
    FrameWriter::new(&mut buffer, &long)
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(Frame::parse(&buffer).unwrap().producer(), "x".repeat(47));
}

#[test]
fn hostile_payloads_are_refused_without_harm() {
    let deep = vec![0x81; 100_000];
    let huge_bytes = [0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let huge_array = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    for payload in [
        &deep[..],
        &huge_bytes,
        &huge_array,
        &[0xff],
        &[0xbf],
        &[0x1c],
    ] {
        let mut buffer = vec![0; 200_000];
        let mut writer = FrameWriter::new(&mut buffer, "x").unwrap();
        writer.add_bytes("bad", 1, Need::Optional, payload).unwrap();
        writer.finish().unwrap();
        let frame = Frame::parse(&buffer).unwrap();
        assert!(frame.read::<ciborium::Value>("bad").is_err());
        assert!(frame.read::<Opaque>("bad").is_err());
        assert!(frame.read::<Clock>("bad").is_err());
    }
}

/// The same bytes with the checksums that they should have, as far as there are tables.
fn resealed(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    let number = |bytes: &[u8], at: usize| -> usize {
        let number: [u8; 8] = bytes[at..at + 8].try_into().unwrap();
        usize::try_from(u64::from_le_bytes(number)).unwrap()
    };
    if bytes.len() < HEADER_BYTES {
        return bytes;
    }
    let (table_at, end) = (number(&bytes, 88), number(&bytes, 96));
    let entry_bytes = number(&bytes, 108) & 0xffff_ffff;
    if table_at > end || end > bytes.len() || entry_bytes < ENTRY_BYTES {
        return bytes;
    }
    for entry in (table_at..end).step_by(entry_bytes) {
        if entry + ENTRY_BYTES > end {
            break;
        }
        let (at, len) = (number(&bytes, entry + 40), number(&bytes, entry + 48));
        if let Some(payload) = at.checked_add(len).and_then(|end| bytes.get(at..end)) {
            let checksum = crc32fast::hash(payload);
            bytes[entry + 56..entry + 60].copy_from_slice(&checksum.to_le_bytes());
        }
    }
    if table_at >= HEADER_BYTES {
        fix_checksum(&mut bytes);
    }
    bytes
}

/// Reads everything in a frame that is one.
fn read_all(bytes: &[u8]) {
    let Ok(frame) = Frame::parse(bytes) else {
        return;
    };
    assert!(frame.size() <= bytes.len());
    let known = [
        KnownSection::new("clock", 1, 2),
        KnownSection::new("note", 1, 1),
    ];
    let _ = frame.check(&known);
    for section in frame.sections() {
        assert_eq!(
            frame.payload(&section.name).map(<[u8]>::len),
            Some(section.bytes)
        );
        let _ = frame.read::<Clock>(&section.name);
        let _ = frame.read::<serde_json::Value>(&section.name);
    }
}

#[test]
fn fuzz_frame() {
    let golden = include_bytes!("../../tests/golden/frame-1.0.bin");
    crate::fuzz::run("frame", &[&sample(), golden], |input| {
        read_all(input);
        read_all(&resealed(input));
        if let Ok(description) = serde_json::from_slice::<Description>(input) {
            let _ = description.check(&[KnownSection::new("clock", 1, 2)]);
        }
    });
}
