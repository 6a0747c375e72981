//! Names of what devices have open, for another process of this host.

pub(super) const DISK: &str = "disk";
pub(super) const TAP: &str = "tap";
pub(super) const LISTENER: &str = "listener";
pub(super) const CLIENT: &str = "client";

/// The name of what the device at a place has open, among those of all devices.
pub(super) fn device_fd_name(slot: u8, name: &str) -> String {
    format!("virtio{slot}-{name}")
}
