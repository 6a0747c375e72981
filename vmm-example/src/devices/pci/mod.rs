//! The guest's PCI bus: one bus behind a host bridge, for passed-through devices of the host.
//!
//! | module | content |
//! |---|---|
//! | `bus` | the functions of a machine, and their accesses by vCPUs |
//! | `config_port` | access to configuration registers: the ports 0xcf8 and 0xcfc |
//! | `bridge` | the host bridge, which makes a kernel recognise the bus |
//! | `slot` | the place of a device on the bus |
//! | `routes` | the mapping from a device's messages to interrupts |
//! | `aml` | the description of the bus for the guest |
//! | `state` | the state that crosses an update |
//!
//! A guest has the bus only if it has a device on it. Configuration space is accessed through
//! ports, so a device has the 256 bytes of conventional PCI: the extended capabilities (SR-IOV,
//! ATS, PASID, error reporting) belong to the host and cannot be reached. Devices interrupt by
//! MSI-X; there are no interrupt lines.

pub(crate) mod aml;
mod bridge;
pub(crate) mod bus;
mod config_port;
pub(crate) mod routes;
pub(crate) mod slot;
pub(crate) mod state;

pub(crate) use bus::{HostDeviceStatus, PciBus};
