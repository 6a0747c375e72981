//! Opening devices: for a new guest, or from a state.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::bars::{self, Room};
use super::config::{self, ConfigError, ConfigSpace};
use super::device::{Device, Physical, Unbound};
use super::function::{Function, Identity, Inner};
use super::host::HostDevice;
use super::iommu::{IOMMUFD, Iommu};
use super::lent::LentDevice;
use super::messages::MESSAGES;
use super::msix::MsixTable;
use super::spec::{PciAddress, VfioSpec};
use super::vectors::Vectors;
use super::windows::KvmWindows;
use super::{VfioError, VfioStateV1};
use crate::devices::pci::routes::{FIRST_MSI, InterruptLines};
use crate::devices::pci::slot::PciSlot;
use crate::devices::pci::state::PciState;
use crate::kvm::Vm;
use crate::kvm::passthrough::VfioRegistry;

/// The name of the device in a slot, in a box and among the descriptors passed to another process.
pub(crate) fn device_name(slot: u8) -> String {
    format!("vfio{slot}")
}

/// A device that this process has opened but not changed yet.
#[derive(Debug)]
pub(crate) struct Passed {
    slot: PciSlot,
    device: Unbound,
}

/// The devices of a new guest, and the iommufd for their DMA.
#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) devices: Vec<Passed>,
    /// Present if there is a device.
    pub(crate) iommufd: Option<OwnedFd>,
}

impl Claimed {
    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }
}

/// Opens the devices of a new guest, in the given order.
pub(crate) fn claim(specs: &[VfioSpec]) -> Result<Claimed, VfioError> {
    if specs.len() > PciSlot::all().count() {
        return Err(VfioError::TooMany);
    }
    let claim = |(slot, VfioSpec(address)): (PciSlot, &VfioSpec)| {
        let host = HostDevice::find(*address)?;
        let device = Unbound::open(&host.cdev, *address)?;
        Ok(Passed { slot, device })
    };
    for (at, VfioSpec(address)) in specs.iter().enumerate() {
        if specs[..at].iter().any(|other| other.0 == *address) {
            let address = address.to_string();
            return Err(VfioError::Twice { address });
        }
    }
    let devices = PciSlot::all().zip(specs).map(claim);
    let devices: Vec<_> = devices.collect::<Result<_, _>>()?;
    let iommufd = match devices.is_empty() {
        true => None,
        false => Some(Iommu::open()?),
    };
    Ok(Claimed { devices, iommufd })
}

/// What devices are connected to.
#[derive(Debug)]
pub(crate) struct Board<'a> {
    pub(crate) vm: &'a Arc<Vm>,
    pub(crate) registry: &'a VfioRegistry,
    pub(crate) lines: &'a Arc<dyn InterruptLines>,
}

/// Attaches devices to a new guest: they are reset, and can access its RAM from now on.
pub(crate) fn attach(
    passed: Vec<Passed>,
    iommu: &Iommu,
    board: &Board<'_>,
) -> Result<Vec<Function>, VfioError> {
    let (mut room, mut next_gsi) = (Room::default(), FIRST_MSI);
    let attach = |Passed { slot, device }| {
        let address = device.address();
        let add = board.registry.add(device.fd());
        add.map_err(|source| kvm(address, source))?;
        let device = device.attach(iommu)?;
        let physical = device.config()?;
        let bars = bars::probe(&physical, |bar| device.bar_size(bar));
        let addresses = room.place(&bars).map_err(|bar| VfioError::NoRoom {
            address: address.to_string(),
            bar: bar.index,
            size: bar.size,
        })?;
        let config = ConfigSpace::new(&physical, bars, &addresses);
        let config = config.map_err(|error| refusal(address, error))?;
        let table = MsixTable::new(config.msix_layout().vectors);
        check_vectors(&device, &config)?;
        let device = Arc::new(device);
        let parts = (device.as_ref(), device.clone() as Arc<dyn Physical>);
        connect(slot, parts, config, table, &mut next_gsi, board)
    };
    passed.into_iter().map(attach).collect()
}

/// Descriptors from another process or a box, by name.
pub(crate) type PassedFds = HashMap<String, OwnedFd>;

/// The devices of a saved guest.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    pub(crate) fds: PassedFds,
    /// Whether this is a lifeboat, to which the host lends them.
    pub(crate) lent: bool,
}

impl Handed {
    fn take(&mut self, name: String) -> Result<OwnedFd, VfioError> {
        let fd = self.fds.remove(&name);
        fd.ok_or(VfioError::NotHandedOver { what: name })
    }

    fn iommu(&mut self, ioas_id: u32) -> Result<Iommu, VfioError> {
        if self.lent {
            return Ok(Iommu::of_host(ioas_id, self.take(MESSAGES.into())?));
        }
        let messages = self.fds.remove(MESSAGES);
        Ok(Iommu::adopt(self.take(IOMMUFD.into())?, ioas_id, messages))
    }
}

/// Continues with the devices of a saved guest, which have never stopped.
pub(crate) fn adopt(
    state: &PciState,
    mut handed: Handed,
    board: &Board<'_>,
) -> Result<(Iommu, Vec<Function>), VfioError> {
    let iommu = handed.iommu(state.bus.ioas_id)?;
    let messages = match handed.lent {
        true => Some(Arc::new(iommu.map_messages()?)),
        false => None,
    };
    let mut next_gsi = FIRST_MSI;
    let mut functions: Vec<Function> = Vec::with_capacity(state.devices.len());
    for saved in &state.devices {
        let fd = handed.take(device_name(saved.slot))?;
        let slot = PciSlot::new(saved.slot)
            .filter(|slot| functions.iter().all(|other| other.slot() != *slot))
            .ok_or_else(|| changed(saved, "its slot is in use or does not exist"))?;
        let device = Device::adopt(fd, saved.address, saved.device_id, saved.page_table_id)?;
        let device = Arc::new(device);
        let (config, table) = check(saved, |bar| device.bar_size(bar))?;
        let physical: Arc<dyn Physical> = match &messages {
            Some(messages) => {
                let msix = (config.msix_layout().table, config.msix_control_at());
                let lent = LentDevice::new(
                    device.clone(),
                    (saved.address, slot),
                    msix,
                    messages.clone(),
                );
                Arc::new(lent)
            }
            None => {
                let add = board.registry.add(device.fd());
                add.map_err(|source| kvm(saved.address, source))?;
                check_vectors(&device, &config)?;
                device.clone()
            }
        };
        let parts = (device.as_ref(), physical);
        functions.push(connect(slot, parts, config, table, &mut next_gsi, board)?);
    }
    Ok((iommu, functions))
}

/// The saved properties of a device, if the device still has those BARs.
pub(super) fn check(
    saved: &VfioStateV1,
    size: impl Fn(u8) -> u64,
) -> Result<(ConfigSpace, MsixTable), VfioError> {
    let image: [u8; config::LEN] = saved.config.as_slice().try_into().map_err(|_| {
        let found = saved.config.len();
        changed(saved, format!("{found} bytes of configuration space"))
    })?;
    for (at, bar) in saved.bars.iter().enumerate() {
        if !bar.is_sound() || size(bar.index).next_power_of_two().max(16) != bar.size {
            let what = format!("BAR {} had {} bytes", bar.index, bar.size);
            return Err(changed(saved, what));
        }
        if saved.bars[..at]
            .iter()
            .any(|other| bar.shares_register(other))
        {
            let what = format!("it has registers of BAR {} twice", bar.index);
            return Err(changed(saved, what));
        }
    }
    let config = ConfigSpace::from_image(image, saved.bars.clone())
        .map_err(|error| refusal(saved.address, error))?;
    let table = MsixTable::from_state(&saved.msix);
    let vectors = config.msix_layout().vectors;
    if table.vectors().len() != usize::from(vectors) {
        let what = format!("{} of {vectors} vectors", table.vectors().len());
        return Err(changed(saved, what));
    }
    Ok((config, table))
}

/// Whether the kernel offers all vectors of a device.
fn check_vectors(device: &Device, config: &ConfigSpace) -> Result<(), VfioError> {
    let vectors = config.msix_layout().vectors;
    let available = device.vectors()?;
    match available < u32::from(vectors) {
        true => Err(VfioError::FewVectors {
            address: device.address().to_string(),
            available,
            vectors,
        }),
        false => Ok(()),
    }
}

fn connect(
    slot: PciSlot,
    (device, physical): (&Device, Arc<dyn Physical>),
    config: ConfigSpace,
    table: MsixTable,
    next_gsi: &mut u32,
    board: &Board<'_>,
) -> Result<Function, VfioError> {
    let identity = Identity {
        slot,
        address: device.address(),
        device_id: device.id(),
        page_table_id: device.page_table_id(),
    };
    let layout = config.msix_layout();
    let vectors = Vectors::new(board.lines.clone(), *next_gsi, layout.vectors);
    let vectors = vectors.map_err(|source| VfioError::Event {
        address: identity.address.to_string(),
        source,
    })?;
    *next_gsi += u32::from(layout.vectors);
    let windows = KvmWindows::new(board.vm, slot.index(), device, config.bars(), layout)?;
    let inner = Inner {
        config,
        table,
        vectors,
        windows: Box::new(windows),
    };
    Ok(Function::new(identity, physical, inner))
}

fn kvm(address: PciAddress, source: crate::kvm::KvmError) -> VfioError {
    VfioError::Kvm {
        address: address.to_string(),
        source,
    }
}

fn changed(saved: &VfioStateV1, what: impl Into<String>) -> VfioError {
    VfioError::Changed {
        address: saved.address.to_string(),
        what: what.into(),
    }
}

fn refusal(address: PciAddress, error: ConfigError) -> VfioError {
    let address = address.to_string();
    match error {
        ConfigError::HeaderType(kind) => VfioError::HeaderType { address, kind },
        ConfigError::NoMsix => VfioError::NoMsix { address },
        ConfigError::MsixOutsideBar => VfioError::MsixOutsideBar { address },
    }
}

#[cfg(test)]
mod tests {
    use super::super::bars::BarStateV1;
    use super::super::config::tests::{MSIX_AT, bars, device};
    use super::*;

    fn saved() -> VfioStateV1 {
        let mut saved = super::super::sample(0, "0000:01:00.0");
        let config = ConfigSpace::new(&device(), bars(), &[0xe000_0000, 0xe002_0000]).unwrap();
        saved.config = config.image().to_vec();
        saved.bars = bars();
        saved.grow_to(5);
        saved
    }

    fn sizes(bar: u8) -> u64 {
        match bar {
            0 => 0x2_0000,
            3 => 0x4000,
            _ => 0,
        }
    }

    fn complaint(saved: &VfioStateV1, sizes: impl Fn(u8) -> u64) -> String {
        check(saved, sizes).unwrap_err().to_string()
    }

    #[test]
    fn a_device_as_it_was_is_taken() {
        let (config, table) = check(&saved(), sizes).unwrap();
        assert_eq!(config.image().as_slice(), saved().config);
        assert_eq!(table.vectors().len(), 5);
    }

    #[test]
    fn another_device_is_refused() {
        let text = complaint(&saved(), |_| 0x1000);
        assert!(text.contains("BAR 0 had 131072 bytes"), "{text}");
    }

    #[test]
    fn a_state_that_cannot_be_is_refused() {
        let mut short = saved();
        short.config.truncate(64);
        assert!(complaint(&short, sizes).contains("64 bytes"));
        let mut odd = saved();
        odd.bars[0].size = 0x1_8000;
        assert!(complaint(&odd, |_| 0x1_8000).contains("BAR 0"));
        let mut beyond = saved();
        beyond.bars[0].index = 200;
        assert!(complaint(&beyond, |_| 0x2_0000).contains("BAR 200"));
        let mut few = saved();
        few.grow_to(4);
        assert!(complaint(&few, sizes).contains("4 of 5 vectors"));
    }

    #[test]
    fn bars_have_registers_of_their_own() {
        let mut twice = saved();
        twice.bars.push(twice.bars[0]);
        let text = complaint(&twice, sizes);
        assert!(text.contains("BAR 0 twice"), "{text}");
        // A register that is the upper half of the previous BAR.
        let mut half = saved();
        half.bars[1].wide = true;
        let upper = BarStateV1 {
            index: 4,
            wide: false,
            prefetchable: false,
            size: 0x1000,
        };
        half.bars.push(upper);
        let sizes = |bar| if bar == 4 { 0x1000 } else { sizes(bar) };
        assert!(complaint(&half, sizes).contains("BAR 4 twice"));
    }

    #[test]
    fn tables_lie_in_a_bar() {
        let table = |register: u32, at: usize| {
            let mut saved = saved();
            let at = MSIX_AT + at;
            saved.config[at..at + 4].copy_from_slice(&register.to_le_bytes());
            complaint(&saved, sizes)
        };
        // The last table entry is beyond the end; there is no such BAR; the pending bits are far
        // outside.
        assert!(table(0x3fc0 | 3, 4).contains("MSI-X"));
        assert!(table(1, 4).contains("MSI-X"));
        assert!(table(7, 8).contains("MSI-X"));
        assert!(table(0xffff_fff8 | 3, 8).contains("MSI-X"));
    }

    #[test]
    fn a_device_is_given_once_and_there_are_so_many_places() {
        let spec: VfioSpec = "vfio=ffff:ff:1f.7".parse().unwrap();
        assert!(matches!(claim(&[spec; 9]), Err(VfioError::TooMany)));
        assert!(matches!(claim(&[spec; 2]), Err(VfioError::Twice { .. })));
        assert!(matches!(claim(&[spec]), Err(VfioError::NoDevice { .. })));
    }
}
