//! What the guest sees of an e1000e-like device, and what it can change.

use super::*;

pub(in crate::devices::vfio) const PM_AT: usize = 0xc8;
pub(in crate::devices::vfio) const MSI_AT: usize = 0xd0;
pub(in crate::devices::vfio) const EXPRESS_AT: usize = 0xe0;
pub(in crate::devices::vfio) const MSIX_AT: usize = 0xa0;

/// Configuration space of a device with an interrupt line, MSI, MSI-X of five vectors in BAR 3,
/// power management and PCI Express.
pub(in crate::devices::vfio) fn device() -> [u8; LEN] {
    let mut config = [0; LEN];
    config[..4].copy_from_slice(&[0x86, 0x80, 0xd3, 0x10]);
    config[COMMAND..COMMAND + 4].copy_from_slice(&[0x07, 0x05, 0x10, 0x00]);
    config[0x0a..0x0c].copy_from_slice(&[0x00, 0x02]);
    config[HEADER_TYPE] = MULTI_FUNCTION;
    config[0x10..0x14].copy_from_slice(&0xfebc_0000u32.to_le_bytes());
    config[0x1c..0x20].copy_from_slice(&0xfebd_0000u32.to_le_bytes());
    config[SUBSYSTEM..SUBSYSTEM + 4].copy_from_slice(&[1, 2, 3, 4]);
    config[CAPABILITIES] = PM_AT as u8;
    config[0x3c..0x3e].copy_from_slice(&[11, 1]);
    config[PM_AT..PM_AT + 8].copy_from_slice(&[POWER, MSI_AT as u8, 0x22, 0xc8, 0, 0x20, 0, 0]);
    config[MSI_AT..MSI_AT + 4].copy_from_slice(&[5, EXPRESS_AT as u8, 0x80, 0]);
    config[EXPRESS_AT..EXPRESS_AT + 4].copy_from_slice(&[EXPRESS, MSIX_AT as u8, 1, 0]);
    config[MSIX_AT..MSIX_AT + 12].copy_from_slice(&[MSIX, 0, 4, 0x80, 3, 0, 0, 0, 3, 0x20, 0, 0]);
    config
}

pub(in crate::devices::vfio) fn bars() -> Vec<BarStateV1> {
    super::super::bars::probe(&device(), |index| match index {
        0 => 0x2_0000,
        3 => 0x4000,
        _ => 0,
    })
}

fn space() -> ConfigSpace {
    ConfigSpace::new(&device(), bars(), &[0xe000_0000, 0xe002_0000]).unwrap()
}

fn read<const N: usize>(space: &ConfigSpace, offset: usize) -> [u8; N] {
    let mut data = [0; N];
    space.read(offset, &mut data);
    data
}

#[test]
fn identity_is_the_devices_and_the_rest_is_as_after_power_on() {
    let space = space();
    assert_eq!(read(&space, 0), [0x86, 0x80, 0xd3, 0x10]);
    assert_eq!(space.command(), 0);
    assert_eq!(read(&space, 0x2c), [1, 2, 3, 4]);
    assert_eq!(read(&space, 0x10), 0xe000_0000u32.to_le_bytes());
    assert_eq!(read(&space, 0x3d), [0], "there is an interrupt line");
    assert_eq!(read(&space, HEADER_TYPE), [0], "it has other functions");
    assert_eq!(space.msix_control(), (false, false));
}

#[test]
fn the_guest_sees_the_capabilities_it_can_use() {
    let space = space();
    let ids: Vec<_> = capabilities(space.image())
        .into_iter()
        .map(|(id, at, _)| (id, at))
        .collect();
    let expected = [(POWER, PM_AT), (EXPRESS, EXPRESS_AT), (MSIX, MSIX_AT)];
    assert_eq!(ids, expected, "MSI is hidden");
    assert_eq!(read(&space, MSI_AT), [0; 4]);
}

#[test]
fn a_bar_tells_its_size_as_the_specification_says() {
    let mut space = space();
    space.write(0x10, &[0xff; 4]);
    assert_eq!(read(&space, 0x10), 0xfffe_0000u32.to_le_bytes());
    space.write(0x14, &[0xff; 4]);
    assert_eq!(read(&space, 0x14), [0; 4], "there is no BAR 1");
}

#[test]
fn a_bar_is_where_the_guest_put_it_while_memory_is_on() {
    let mut space = space();
    let bar = space.bars()[0];
    assert_eq!(space.address(&bar), None);
    space.write(0x10, &0xf000_0000u32.to_le_bytes());
    space.write(COMMAND, &(MEMORY | MASTER).to_le_bytes());
    assert_eq!(space.address(&bar), Some(0xf000_0000));
    space.write(COMMAND, &0xffffu16.to_le_bytes());
    assert_eq!(space.command(), 0x0546);
}

#[test]
fn only_power_state_and_msix_control_can_be_written_beside_the_header() {
    let mut space = space();
    space.write(PM_AT, &[0xff; 8]);
    assert_eq!(read(&space, PM_AT + 2), [0x02, 0]);
    assert_eq!(read(&space, PM_AT + 4), [0x0b, 0, 0, 0]);
    space.write(MSIX_AT, &[0xff; 12]);
    assert_eq!(read(&space, MSIX_AT + 2), [4, 0xc0]);
    assert_eq!(space.msix_control(), (true, true));
    space.write(0, &[0xff; 4]);
    assert_eq!(read(&space, 0), [0x86, 0x80, 0xd3, 0x10]);
}

#[test]
fn the_devices_own_registers_go_to_the_device() {
    let space = space();
    let live = |offset, at, len| Live { offset, at, len };
    assert_eq!(space.live(EXPRESS_AT, 4), [live(EXPRESS_AT + 2, 2, 2)]);
    assert_eq!(space.live(EXPRESS_AT + 8, 2), [live(EXPRESS_AT + 8, 0, 2)]);
    assert_eq!(space.live(MSIX_AT, 4), []);
    assert_eq!(space.live(0xfe, 4), [], "beyond the end");
}

#[test]
fn an_image_is_the_space_again() {
    let mut space = space();
    space.write(COMMAND, &(MEMORY | MASTER).to_le_bytes());
    space.write(MSIX_AT + 2, &[0, 0x80]);
    let again = ConfigSpace::from_image(*space.image(), bars());
    assert_eq!(again, Ok(space));
}

#[test]
fn bridges_and_devices_without_msix_are_refused() {
    let mut bridge = device();
    bridge[HEADER_TYPE] = 0x81;
    let refused = ConfigSpace::new(&bridge, bars(), &[0, 0]);
    assert_eq!(refused, Err(ConfigError::HeaderType(1)));
    let mut plain = device();
    plain[EXPRESS_AT + 1] = 0;
    let refused = ConfigSpace::new(&plain, bars(), &[0, 0]);
    assert_eq!(refused, Err(ConfigError::NoMsix));
}

#[test]
fn a_broken_list_of_capabilities_ends() {
    let mut circle = device();
    circle[MSIX_AT + 1] = PM_AT as u8;
    assert!(ConfigSpace::new(&circle, bars(), &[0, 0]).is_ok());
    let mut beyond = device();
    beyond[MSIX_AT + 1] = 0xfc;
    beyond[0xfc] = MSIX;
    assert!(ConfigSpace::new(&beyond, bars(), &[0, 0]).is_ok());
}

#[test]
fn a_list_of_capabilities_ends_however_it_is_linked() {
    // Its only entry refers to itself, and is longer than the space after it.
    let mut device = device();
    device[CAPABILITIES] = 0xf0;
    device[0xf0..0xf3].copy_from_slice(&[EXPRESS, 0xf0, 2]);
    assert!(capabilities(&device).is_empty());
    let new = ConfigSpace::new(&device, bars(), &[0xe000_0000, 0xe002_0000]);
    assert_eq!(new.unwrap_err(), ConfigError::NoMsix);
    assert_eq!(
        ConfigSpace::from_image(device, bars()).unwrap_err(),
        ConfigError::NoMsix
    );
    // Two entries that refer to each other: each is listed once.
    device[0xf0..0xf3].copy_from_slice(&[5, MSIX_AT as u8, 0]);
    device[MSIX_AT + 1] = 0xf0;
    assert_eq!(capabilities(&device), [(5, 0xf0, 4), (MSIX, MSIX_AT, 12)]);
}
