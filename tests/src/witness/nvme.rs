//! The NVMe drive that is passed through to the guest: loads its stock driver and keeps many writes
//! in flight.

use std::fs::File;
use std::path::Path;
use std::sync::OnceLock;
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::device::NVME_DEPTH;
use fdbox_lab::witness::{NvmeIo, WitnessEvent};

use crate::clocks::Clocks;
use crate::disk::Disk;

/// In the order of their dependencies.
const MODULES: [&str; 2] = ["/lib/modules/nvme-core.ko", "/lib/modules/nvme.ko"];
const DRIVE: &str = "/dev/nvme0n1";
/// The time limit for the driver to find the drive.
const LIMIT: Duration = Duration::from_secs(60);

/// The drive; it is set up on first use.
#[derive(Debug, Default)]
pub(crate) struct Nvme(OnceLock<Disk>);

impl Nvme {
    /// Starts to work, slower than usual by the factor `pace`, unless that is running already.
    pub(crate) fn start<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        pace: u32,
    ) -> Result<()> {
        if self.0.get().is_some() {
            return Ok(());
        }
        let opened = open()?;
        let disk = self.0.get_or_init(|| opened);
        for _ in 0..NVME_DEPTH {
            scope.spawn(move || disk.write(pace));
        }
        scope.spawn(move || disk.read(pace));
        Ok(())
    }

    /// Stops in an orderly way: all requests complete, and everything written is read once more.
    pub(crate) fn end(&self) {
        if let Some(disk) = self.0.get() {
            disk.end();
            disk.check();
        }
    }

    /// The results so far.
    pub(crate) fn report(&self, clocks: &Clocks) -> WitnessEvent {
        self.0.get().map_or(WitnessEvent::What, |disk| {
            WitnessEvent::Nvme(Box::new(NvmeIo {
                disk: disk.done(),
                in_flight: disk.in_flight_over(clocks.gap()),
            }))
        })
    }
}

/// Loads the driver and waits until it has found the drive.
fn open() -> Result<Disk> {
    for module in MODULES {
        let file = File::open(module).with_context(|| format!("Open {module}"))?;
        rustix::system::finit_module(&file, c"", 0).with_context(|| format!("Load {module}"))?;
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        match Disk::open(Path::new(DRIVE)) {
            Err(_) if Instant::now() < deadline => {}
            result => return result,
        }
        // The node exists before the drive can be opened, and there is no event for the latter.
        std::thread::sleep(Duration::from_millis(20));
    }
}
