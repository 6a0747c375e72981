//! Configuration space as the guest sees it: 256 bytes, most of them emulated.
//!
//! Identity and sizes are those of the device. BARs, the command register and the power state are
//! emulated. The guest sees the capabilities for power management, PCI Express, MSI-X and
//! vendor-specific ones; PCI Express and vendor-specific ones are read from the device and written
//! to it on each access, and the host's kernel decides which writes take effect.

use super::bars::BarStateV1;
use super::msix::MsixLayout;

pub(super) const LEN: usize = 256;

pub(super) const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const CACHE_LINE: usize = 0x0c;
const HEADER_TYPE: usize = 0x0e;
const BIST: usize = 0x0f;
const SUBSYSTEM: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;

/// Bits of the command register.
pub(super) const MEMORY: u16 = 1 << 1;
pub(super) const MASTER: u16 = 1 << 2;
pub(super) const PARITY: u16 = 1 << 6;
pub(super) const SERR: u16 = 1 << 8;
pub(super) const INTX_OFF: u16 = 1 << 10;
const HAS_CAPABILITIES: u8 = 1 << 4;
const MULTI_FUNCTION: u8 = 1 << 7;

/// Capability IDs.
const POWER: u8 = 0x01;
const VENDOR: u8 = 0x09;
const EXPRESS: u8 = 0x10;
const MSIX: u8 = 0x11;

/// Bits of the high byte of message control: enabled, and all vectors masked.
const MSIX_CONTROL: u8 = 0xc0;

/// Why a configuration space cannot be shown to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConfigError {
    /// A bridge, or an unknown header type.
    HeaderType(u8),
    NoMsix,
    /// Its tables are not in its BARs.
    MsixOutsideBar,
}

/// See the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigSpace {
    image: [u8; LEN],
    /// The bits that the guest can change.
    writable: [u8; LEN],
    /// The bytes that are read from the device.
    live: [bool; LEN],
    bars: Vec<BarStateV1>,
    msix_at: usize,
}

/// The part of an access that goes to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// Offset in configuration space.
    pub(super) offset: usize,
    /// Offset in the data of the access.
    pub(super) at: usize,
    pub(super) len: usize,
}

impl ConfigSpace {
    /// The initial view of a device with the configuration space `device`, with `bars` at these
    /// addresses.
    pub(super) fn new(
        device: &[u8; LEN],
        bars: Vec<BarStateV1>,
        addresses: &[u64],
    ) -> Result<Self, ConfigError> {
        let kind = device[HEADER_TYPE] & !MULTI_FUNCTION;
        if kind != 0 {
            return Err(ConfigError::HeaderType(kind));
        }
        let mut image = [0; LEN];
        image[..COMMAND].copy_from_slice(&device[..COMMAND]);
        image[STATUS..CACHE_LINE].copy_from_slice(&device[STATUS..CACHE_LINE]);
        image[STATUS] &= !HAS_CAPABILITIES;
        image[SUBSYSTEM..SUBSYSTEM + 4].copy_from_slice(&device[SUBSYSTEM..SUBSYSTEM + 4]);
        for (bar, address) in bars.iter().zip(addresses) {
            let registers = bar.registers(*address);
            image[bar.offset()..bar.offset() + bar.len()].copy_from_slice(&registers[..bar.len()]);
        }
        copy_capabilities(device, &mut image);
        Self::from_image(image, bars)
    }

    /// The view that a guest had before an update.
    pub(super) fn from_image(image: [u8; LEN], bars: Vec<BarStateV1>) -> Result<Self, ConfigError> {
        let mut space = Self {
            image,
            writable: [0; LEN],
            live: [false; LEN],
            bars,
            msix_at: 0,
        };
        let command = MEMORY | MASTER | PARITY | SERR | INTX_OFF;
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&command.to_le_bytes());
        space.writable[CACHE_LINE] = 0xff;
        space.writable[INTERRUPT_LINE] = 0xff;
        for bar in &space.bars {
            space.writable[bar.offset()..bar.offset() + bar.len()]
                .copy_from_slice(&bar.writable()[..bar.len()]);
        }
        for (id, at, len) in capabilities(&image) {
            match id {
                POWER => space.writable[at + 4] = 0x03,
                MSIX => {
                    space.writable[at + 3] = MSIX_CONTROL;
                    space.msix_at = at;
                }
                _ => space.live[at + 2..at + len].fill(true),
            }
        }
        match space.msix_at {
            0 => Err(ConfigError::NoMsix),
            _ if !space.msix_layout().is_in(&space.bars) => Err(ConfigError::MsixOutsideBar),
            _ => Ok(space),
        }
    }

    pub(super) fn image(&self) -> &[u8; LEN] {
        &self.image
    }

    pub(super) fn bars(&self) -> &[BarStateV1] {
        &self.bars
    }

    /// The guest's command register.
    pub(super) fn command(&self) -> u16 {
        u16::from_le_bytes([self.image[COMMAND], self.image[COMMAND + 1]])
    }

    /// The guest's address of a BAR; `None` while memory is disabled.
    pub(super) fn address(&self, bar: &BarStateV1) -> Option<u64> {
        (self.command() & MEMORY != 0).then(|| bar.address(&self.image))
    }

    /// The location of the MSI-X tables.
    pub(super) fn msix_layout(&self) -> MsixLayout {
        let word = |at: usize| {
            let at = self.msix_at + at;
            u32::from_le_bytes([
                self.image[at],
                self.image[at + 1],
                self.image[at + 2],
                self.image[at + 3],
            ])
        };
        MsixLayout::new((word(0) >> 16) as u16, word(4), word(8))
    }

    /// The offset of MSI-X message control.
    pub(super) fn msix_control_at(&self) -> usize {
        self.msix_at + 2
    }

    /// Whether MSI-X is enabled, and whether all its vectors are masked.
    pub(super) fn msix_control(&self) -> (bool, bool) {
        let control = self.image[self.msix_at + 3];
        (control & 0x80 != 0, control & 0x40 != 0)
    }

    /// Reads the emulated bytes.
    pub(super) fn read(&self, offset: usize, data: &mut [u8]) {
        for (byte, kept) in data.iter_mut().zip(self.image.iter().skip(offset)) {
            *byte = *kept;
        }
    }

    /// Writes the emulated bytes.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, byte) in (offset..LEN).zip(data) {
            let mask = self.writable[at];
            self.image[at] = (self.image[at] & !mask) | (byte & mask);
        }
    }

    /// Resets to the power-on state, except for the addresses of the BARs.
    pub(super) fn reset(&mut self) {
        self.image[COMMAND..COMMAND + 2].fill(0);
        self.image[CACHE_LINE] = 0;
        self.image[INTERRUPT_LINE] = 0;
        for (id, at, _) in capabilities(&self.image) {
            match id {
                POWER => self.image[at + 4] &= !0x03,
                MSIX => self.image[at + 3] &= !MSIX_CONTROL,
                _ => {}
            }
        }
    }

    /// The parts of an access that go to the device, in order.
    pub(super) fn live(&self, offset: usize, len: usize) -> Vec<Live> {
        let mut parts: Vec<Live> = Vec::new();
        for at in 0..len.min(LEN.saturating_sub(offset)) {
            if !self.live[offset + at] {
                continue;
            }
            match parts.last_mut() {
                Some(last) if last.at + last.len == at => last.len += 1,
                _ => parts.push(Live {
                    offset: offset + at,
                    at,
                    len: 1,
                }),
            }
        }
        parts
    }
}

/// Copies the capabilities that a guest sees, and links them.
fn copy_capabilities(device: &[u8; LEN], image: &mut [u8; LEN]) {
    let mut link = CAPABILITIES;
    for (id, at, len) in capabilities(device) {
        if !matches!(id, POWER | VENDOR | EXPRESS | MSIX) {
            continue;
        }
        image[at..at + len].copy_from_slice(&device[at..at + len]);
        image[at + 1] = 0;
        image[link] = at as u8;
        link = at + 1;
        match id {
            POWER => {
                // No wake-up from any state, no D1 and D2; in D0, and no state is lost in D3.
                image[at + 2] &= 0x07;
                image[at + 3] = 0;
                image[at + 4..at + 8].copy_from_slice(&[1 << 3, 0, 0, 0]);
            }
            MSIX => image[at + 3] &= !MSIX_CONTROL,
            _ => {}
        }
        image[STATUS] |= HAS_CAPABILITIES;
    }
    image[BIST] = 0;
    image[HEADER_TYPE] &= !MULTI_FUNCTION;
}

/// The listed capabilities: ID, offset and length. A list that loops or leaves configuration space
/// ends there.
fn capabilities(config: &[u8; LEN]) -> Vec<(u8, usize, usize)> {
    let mut found = Vec::new();
    if config[STATUS] & HAS_CAPABILITIES == 0 {
        return found;
    }
    let mut at = usize::from(config[CAPABILITIES] & !3);
    let mut visited = [false; LEN];
    while at >= 0x40 && !std::mem::replace(&mut visited[at], true) {
        let id = config[at];
        let len = match id {
            POWER => 8,
            MSIX => 12,
            VENDOR => usize::from(config[at + 2]).max(4),
            // Version 1 has no slot and root registers after those of device and link.
            EXPRESS if config[at + 2] & 0xf < 2 => 0x14,
            EXPRESS => 0x3c,
            _ => 4,
        };
        if at + len <= LEN {
            found.push((id, at, len));
        }
        at = usize::from(config[at + 1] & !3);
    }
    found
}

#[cfg(test)]
pub(super) mod tests;
