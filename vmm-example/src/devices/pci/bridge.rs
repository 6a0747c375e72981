//! The host bridge, device 0: a kernel that probes for a bus by its ports looks for one.

/// "Generic host bridge" in the PCI ID database: no driver binds to it.
const VENDOR_AND_DEVICE: [u8; 4] = [0x36, 0x1b, 0x08, 0x00];
/// Class 6 (bridge), subclass 0 (host).
const CLASS_AT: usize = 0x08;
const CLASS: [u8; 4] = [0, 0, 0, 6];

/// Reads configuration space, which is read-only.
pub(super) fn read(offset: u8, data: &mut [u8]) {
    for (at, byte) in (usize::from(offset)..).zip(data) {
        *byte = match at {
            0..4 => VENDOR_AND_DEVICE[at],
            CLASS_AT..0x0c => CLASS[at - CLASS_AT],
            _ => 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_finds_a_host_bridge() {
        let mut class = [0; 2];
        read(0x0a, &mut class);
        assert_eq!(u16::from_le_bytes(class), 0x0600);
        let mut vendor = [0; 2];
        read(0, &mut vendor);
        assert_eq!(u16::from_le_bytes(vendor), 0x1b36);
    }
}
