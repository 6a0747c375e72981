//! The options for a guest's devices.

use clap::Args;

use super::RunArgs;
use crate::devices::vfio::spec::VfioSpec;
use crate::devices::virtio::spec::{DeviceSpecs, DiskSpec, HvcSpec, NetSpec, VsockSpec};
use crate::spec::SpecError;

/// A guest's devices, at most eight.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Devices, at most eight")]
pub(crate) struct DeviceArgs {
    /// A disk in a file or on a block device; may be repeated. A resume opens the same path.
    ///
    /// `direct=on` bypasses the host's page cache. Requests are carried out by io_uring, or by a
    /// thread on a host without it; `io=uring` and `io=thread` force one of them.
    #[arg(
        long = "disk",
        value_name = "path=FILE[,readonly=on][,direct=on][,io=uring|thread]"
    )]
    pub(crate) disks: Vec<DiskSpec>,
    /// A network on a tap; may be repeated. A resume attaches to the tap of the same name; one
    /// passed by descriptor must be passed again.
    #[arg(long = "net", value_name = "tap=NAME|fd=N[,mac=MAC]")]
    pub(crate) nets: Vec<NetSpec>,
    /// A socket device (vsock) for connections between guest and host. An update resets them.
    ///
    /// A program that connects to PATH and writes `CONNECT PORT` reaches that port in the guest. A
    /// guest that connects to CID 2 reaches the Unix socket PATH_PORT.
    #[arg(long, value_name = "cid=N,socket=PATH")]
    pub(crate) vsock: Option<VsockSpec>,
    /// A second console, hvc0 in the guest.
    #[arg(long, value_name = "file=PATH|socket=PATH")]
    pub(crate) hvc: Option<HvcSpec>,
    /// Do not provide a source of random numbers.
    #[arg(long)]
    pub(crate) no_rng: bool,
}

impl DeviceArgs {
    pub(crate) fn specs(&self) -> DeviceSpecs {
        DeviceSpecs {
            disks: self.disks.clone(),
            nets: self.nets.clone(),
            console: self.hvc.clone(),
            rng: !self.no_rng,
            vsock: self.vsock.clone(),
        }
    }
}

/// Devices of the host that the guest drives itself, at most eight.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Devices of the host, at most eight")]
pub(crate) struct PassthroughArgs {
    /// A PCI device of the host, by its address; may be repeated.
    ///
    /// The device must be bound to vfio-pci, have MSI-X, and be behind an IOMMU. It can access all
    /// of the guest's memory, which must be --memory kind=memfd, and nothing else. An update with
    /// --kernel or --no-kexec keeps it running, in the guest's box.
    #[arg(long = "device", value_name = "vfio=BDF")]
    pub(crate) devices: Vec<VfioSpec>,
}

impl RunArgs {
    /// The guest kernel's command line. A guest with a device on its PCI bus must scan that bus.
    pub(crate) fn kernel_cmdline(&self) -> Result<String, SpecError> {
        let has_pci = !self.passthrough.devices.is_empty();
        let given = self.cmdline.as_deref();
        if has_pci
            && let Some(cmdline) = given
            && cmdline
                .split_ascii_whitespace()
                .any(|word| word == "pci=off")
        {
            return Err(SpecError::BadValue {
                what: "Command line",
                value: cmdline.into(),
                expected: "one without pci=off: --device is on the guest's PCI bus",
            });
        }
        let default = if has_pci {
            "console=ttyS0"
        } else {
            "console=ttyS0 pci=off"
        };
        Ok(given.unwrap_or(default).into())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn run(line: &str) -> RunArgs {
        let line = format!("vmm run --kernel k --api-socket s {line}");
        match Cli::try_parse_from(line.split_ascii_whitespace()).map(|cli| cli.command) {
            Ok(Command::Run(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_guest_with_a_device_looks_for_it() {
        let args = run("--device vfio=01:00.0 --device vfio=0000:02:00.1");
        assert_eq!(args.passthrough.devices.len(), 2);
        assert_eq!(args.kernel_cmdline().unwrap(), "console=ttyS0");
        let mut args = run("--device vfio=01:00.0 --cmdline quiet");
        assert_eq!(args.kernel_cmdline().unwrap(), "quiet");
        args.cmdline = Some("quiet pci=off".into());
        let error = args.kernel_cmdline().unwrap_err();
        assert!(error.to_string().contains("--device"), "{error}");
    }
}
