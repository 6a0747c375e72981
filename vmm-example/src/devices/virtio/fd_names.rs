//! Names of the devices' open descriptors, for another process of this host.

pub(super) const DISK: &str = "disk";
pub(super) const TAP: &str = "tap";
pub(super) const LISTENER: &str = "listener";
pub(super) const CLIENT: &str = "client";

/// The name of a descriptor of the device in a slot, unique among all devices.
pub(super) fn device_fd_name(slot: u8, name: &str) -> String {
    format!("virtio{slot}-{name}")
}
