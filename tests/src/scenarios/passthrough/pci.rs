//! The host's devices to pass through, as sysfs shows them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const DEVICES: &str = "/sys/bus/pci/devices";
/// Vendor and device of an 82574, which QEMU's e1000e is.
const NIC: [&str; 2] = ["0x8086", "0x10d3"];
const VFIO_PCI: &str = "vfio-pci";

fn text(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("Read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The same of a virtio network device, which is the one that uses ATS where there is one.
const USES_ATS: [&str; 2] = ["0x1af4", "0x1041"];

/// The folders of all of them, in the order of their addresses.
pub(crate) fn nics() -> Result<Vec<PathBuf>> {
    all(NIC)
}

/// The folder of the device that uses ATS.
pub(crate) fn ats_user() -> Result<PathBuf> {
    let mut found = all(USES_ATS)?;
    // The guests' network device is one too, but has no such capability.
    found.retain(|place| fs::metadata(place.join("iommu")).is_ok());
    found.pop().context("The host has no device that uses ATS")
}

fn all(id: [&str; 2]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(DEVICES)? {
        let place = entry?.path();
        if [text(&place.join("vendor"))?, text(&place.join("device"))?] == id {
            found.push(place);
        }
    }
    found.sort();
    Ok(found)
}

/// The folder of the first: the one that a scenario with one device takes.
pub(crate) fn nic() -> Result<PathBuf> {
    nics()?.into_iter().next().context("The host has no e1000e")
}

/// The driver's name, if it has one.
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

/// Binds a device to vfio-pci: its node.
pub(crate) fn give_to_vfio(place: &Path) -> Result<String> {
    give_to(place, VFIO_PCI)?;
    node(place)
}

/// Takes a device from its driver, if it has another one, and binds it to this one.
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

/// A device's node of VFIO.
pub(crate) fn node(place: &Path) -> Result<String> {
    let devices = fs::read_dir(place.join("vfio-dev")).context("vfio-pci has no such device")?;
    let device = devices.last().context("vfio-pci has no such device")??;
    let name = device.file_name().to_string_lossy().into_owned();
    Ok(format!("/dev/vfio/devices/{name}"))
}

/// Whether the first may do DMA, by its own PCI_COMMAND.
pub(crate) fn is_master() -> Result<bool> {
    let config = fs::File::open(nic()?.join("config"))?;
    let mut command = [0; 2];
    config.read_exact_at(&mut command, 4)?;
    Ok(u16::from_le_bytes(command) & 4 != 0)
}
