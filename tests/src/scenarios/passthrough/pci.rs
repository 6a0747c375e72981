//! The host's devices for passthrough, as shown in sysfs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Vendor and device id of an 82574, which QEMU's e1000e emulates.
const NIC: [&str; 2] = ["0x8086", "0x10d3"];
/// Those of QEMU's NVMe controller.
const NVME: [&str; 2] = ["0x1b36", "0x0010"];
const VFIO_PCI: &str = "vfio-pci";

fn text(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("Read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Those of a virtio network device, which has ATS on the host with such devices behind ports.
const HAS_ATS: [&str; 2] = ["0x1af4", "0x1041"];

/// The directory of the device that uses ATS, and that of the one that does not.
pub(crate) fn with_ats() -> Result<[PathBuf; 2]> {
    let mut found = with_ids(HAS_ATS)?;
    // The guests' network device is one too, but does not have the capability.
    let others = found.len().saturating_sub(2);
    let found = found.split_off(others);
    let found = found.try_into();
    found.map_err(|_| anyhow!("The host has no two devices with ATS"))
}

/// The directories of all devices with these ids, in the order of their addresses.
fn with_ids(ids: [&str; 2]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let place = entry?.path();
        if [text(&place.join("vendor"))?, text(&place.join("device"))?] == ids {
            found.push(place);
        }
    }
    found.sort();
    Ok(found)
}

/// The directories of all cards, in the order of their addresses.
pub(crate) fn nics() -> Result<Vec<PathBuf>> {
    with_ids(NIC)
}

/// The directory of the NVMe drive.
pub(crate) fn nvme() -> Result<PathBuf> {
    let found = with_ids(NVME)?;
    found
        .into_iter()
        .next()
        .context("The host has no NVMe drive")
}

/// The directory of the first card: the one used by a scenario with one device.
pub(crate) fn nic() -> Result<PathBuf> {
    nics()?.into_iter().next().context("The host has no e1000e")
}

/// The name of its driver, if it has one.
pub(crate) fn driver() -> Result<Option<String>> {
    driver_of(&nic()?)
}

fn driver_of(place: &Path) -> Result<Option<String>> {
    match fs::read_link(place.join("driver")) {
        Ok(link) => Ok(link
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("Read which driver the device has"),
    }
}

/// Binds a device to vfio-pci; returns its node.
pub(crate) fn give_to_vfio(place: &Path) -> Result<String> {
    give_to(place, VFIO_PCI)?;
    node(place)
}

/// Binds a device to vfio-pci; returns the VMM's arguments for passing it to a guest.
pub(crate) fn to_pass_through(place: &Path) -> Result<[String; 2]> {
    give_to_vfio(place)?;
    Ok(["--device".to_owned(), format!("vfio={}", address(place))])
}

/// Takes a device from its driver, if that is another one, and binds it to this one.
pub(crate) fn give_to(place: &Path, driver: &str) -> Result<()> {
    let bound = driver_of(place)?;
    if bound.as_deref() == Some(driver) {
        return Ok(());
    }
    fs::write(place.join("driver_override"), driver).context("Set driver_override")?;
    let name = address(place);
    if bound.is_some() {
        fs::write(place.join("driver/unbind"), &name).context("Unbind the device")?;
    }
    fs::write("/sys/bus/pci/drivers_probe", &name).context("Probe the device")?;
    let bound = driver_of(place)?;
    ensure!(
        bound.as_deref() == Some(driver),
        "{name} is bound to {bound:?}, not to {driver}"
    );
    Ok(())
}

/// A device's PCI address.
pub(crate) fn address(place: &Path) -> String {
    let name = place.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// A device's VFIO node.
pub(crate) fn node(place: &Path) -> Result<String> {
    let devices = fs::read_dir(place.join("vfio-dev")).context("vfio-pci has no such device")?;
    let device = devices.last().context("vfio-pci has no such device")??;
    let name = device.file_name().to_string_lossy().into_owned();
    Ok(format!("/dev/vfio/devices/{name}"))
}

/// Whether a device may do DMA, according to its own PCI_COMMAND.
pub(crate) fn is_master(place: &Path) -> Result<bool> {
    let config = fs::File::open(place.join("config"))?;
    let mut command = [0; 2];
    config.read_exact_at(&mut command, 4)?;
    Ok(u16::from_le_bytes(command) & 4 != 0)
}

/// Which list of kept devices: docs/handover-abi.md.
#[derive(Debug, Clone, Copy)]
pub(crate) enum List {
    /// What came from the last kernel.
    In,
    /// What the next kernel gets.
    Out,
}

/// The bytes in use of a list of kept devices.
pub(crate) fn kept_list(list: List) -> Result<Vec<u8>> {
    let way = match list {
        List::In => "in",
        List::Out => "out",
    };
    let path = format!("/sys/kernel/debug/kho/{way}/sub_fdts/pci-keep");
    let mut page = fs::read(&path).with_context(|| format!("Read {path}"))?;
    let count = page.get(8..12).context("The list is cut off")?;
    let count = u32::from_le_bytes(count.try_into()?) as usize;
    ensure!(page.len() == 4096, "The list has {} bytes", page.len());
    page.truncate(16 + 4 * count);
    Ok(page)
}

/// How the last kernel's IOMMU translated for the devices that came from it.
pub(crate) fn translated_by() -> Result<&'static str> {
    let list = kept_list(List::In)?;
    Ok(match list[12..16] {
        [0, 0, 0, 0] | [2, 0, 0, 0] => "legacy",
        [2, 1, 0, 0] => "scalable",
        [0, 2, 0, 0] => "amd-vi",
        _ => bail!("What translated is unknown: {list:x?}"),
    })
}
