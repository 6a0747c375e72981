//! The guest's PCI bus: one bus behind a host bridge, for devices of the host that it drives.
//!
//! | module | is about |
//! |---|---|
//! | `bus` | the functions of a machine, and what a vCPU reads and writes of them |
//! | `config_port` | how a vCPU names a register: the ports 0xcf8 and 0xcfc |
//! | `bridge` | the function that makes a kernel believe in the bus |
//! | `slot` | where on the bus a device is |
//! | `routes` | which message of a device becomes which interrupt |
//! | `aml` | how the guest learns of the bus |
//! | `state` | what of it crosses an update |
//!
//! A guest has the bus only if it has a device on it. Configuration space is reached through
//! ports, so a device has the 256 bytes of conventional PCI: the extended capabilities (SR-IOV,
//! ATS, PASID, error reporting) are the host's and cannot be reached. Devices interrupt by
//! MSI-X; there are no interrupt lines.

pub(crate) mod aml;
mod bridge;
pub(crate) mod bus;
mod config_port;
pub(crate) mod routes;
pub(crate) mod slot;
pub(crate) mod state;

pub(crate) use bus::{HostDeviceStatus, PciBus};
