//! `run`: boot a guest.

use vmm_fdbox::update::ExitStatus;

use super::serve::Surroundings;
use crate::cli::RunArgs;
use crate::devices::vfio;
use crate::devices::virtio::{self, Opened};
use crate::guest::boot::BootSpec;
use crate::guest::machine::{Machine, NewGuest};
use crate::kvm::Host;

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitStatus> {
    args.check_output().map_err(anyhow::Error::msg)?;
    let host = Host::open()?;
    let mut around = Surroundings::open(&args.console, Some(&args.api_socket))?;
    if args.json {
        around = around.announce();
    }
    let passed = vfio::claim(&args.passthrough.devices)?;
    let cmdline = args.kernel_cmdline()?;
    let devices = virtio::open(&args.devices.specs(), &around.title)?;
    let slots: Vec<_> = devices.iter().map(Opened::slot).collect();
    let guest = NewGuest {
        name: &args.name.to_string(),
        memory: args.memory,
        boot: BootSpec {
            kernel: &args.kernel,
            initramfs: args.initramfs.as_deref(),
            cmdline: &cmdline,
            cpus: args.cpus,
            devices: &slots,
            has_pci: !passed.is_empty(),
        },
        devices,
        passed,
    };
    let machine = Machine::boot(&host, guest, around.console.clone(), &around.on_end)?;
    let vmm = around.start(machine);
    around.serve(vmm)
}
