//! `run`: boots a guest.

use std::time::Duration;

use vmm_fdbox::update::ExitStatus;

use super::serve::Environment;
use crate::cli::RunArgs;
use crate::devices::vfio;
use crate::devices::virtio;
use crate::guest::boot::BootImage;
use crate::guest::machine::{Machine, NewGuest};
use crate::kvm::Host;
use crate::service::api::ApiPaths;

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitStatus> {
    args.check_output().map_err(anyhow::Error::msg)?;
    let host = Host::open()?;
    args.sandbox().make_folders(args.life.api_group)?;
    let paths = ApiPaths::new(Some(&args.api_socket), args.life.status_socket.as_deref());
    let mut environment = Environment::open(&args.console, &paths)?;
    environment = environment.shut_down_in(Duration::from_secs(args.life.shutdown_timeout));
    environment.share_api(args.life.api_group)?;
    if args.json {
        environment = environment.announce();
    }
    let passed = vfio::claim(&args.passthrough.devices)?;
    let cmdline = args.kernel_cmdline()?;
    let devices = virtio::open(&args.devices.specs(), &environment.ownership)?;
    let image = BootImage::open(&args.kernel, args.initramfs.as_deref(), &cmdline)?;
    args.sandbox().enter()?;
    let guest = NewGuest {
        name: &args.name.to_string(),
        memory: args.memory,
        cpus: args.cpus,
        hidden_cpuid: &args.cpuid.hide_cpuid,
        image,
        reboots: !args.life.no_reboot,
        devices,
        passed,
    };
    let machine = Machine::boot(
        &host,
        guest,
        environment.console.clone(),
        &environment.on_end,
    )?;
    let vmm = environment.start(machine);
    environment.serve(vmm)
}
