//! A hand-made kernel image, and a check of the documentation.

/// A `kernel_info` without chunks, as Linux 7.3 has it.
const STOCK_INFO: [u8; 16] = *b"LToP\x10\0\0\0\x10\0\0\0\x0a\0\0\x80";

/// The smallest complete bzImage with this `kernel_info`. Its setup is 4 sectors long.
pub(crate) fn bzimage(kernel_info: Option<&[u8]>) -> Vec<u8> {
    const KERNEL_AT: usize = 4 * 512;
    const KERNEL_BYTES: usize = 4096;
    const INFO_AT: usize = 0x800;
    let mut bytes = vec![0; KERNEL_AT + KERNEL_BYTES];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    let u32s = |number: usize| u32::try_from(number).unwrap().to_le_bytes();
    put(0x1f1, &[3]); // setup_sects
    put(0x1f4, &u32s(KERNEL_BYTES / 16)); // syssize
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x202, b"HdrS");
    put(0x206, &[0x0f, 0x02]); // version
    put(0x20e, &[0x00, 0x02]); // kernel_version, from 0x200
    put(0x211, &[1]); // loadflags
    put(0x236, &[0x7f, 0]); // xloadflags
    put(0x238, &u32s(2047)); // cmdline_size
    put(0x248, &u32s(0x100)); // payload_offset
    put(0x24c, &u32s(0x400)); // payload_length
    put(0x260, &u32s(0x10000)); // init_size
    put(0x268, &u32s(INFO_AT)); // kernel_info_offset
    put(0x400, b"7.3.4-next+ (builder@host) #1 SMP\0");
    put(KERNEL_AT + INFO_AT, kernel_info.unwrap_or(&STOCK_INFO));
    bytes
}

/// Asserts that the operator's guide contains this text, regardless of line breaks.
#[track_caller]
pub(crate) fn assert_documented(text: &str) {
    assert_documented_in("operations.md", text);
}

/// The same for another page.
#[track_caller]
pub(crate) fn assert_documented_in(page: &str, text: &str) {
    let docs = format!("{}/docs/{page}", env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_to_string(docs).expect(page);
    let docs = docs.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(docs.contains(text), "docs/{page} says nothing of {text:?}");
}
