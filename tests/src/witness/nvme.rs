//! The NVMe drive that is passed through to the guest: its stock driver is loaded, and many writes are kept in
//! flight.

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

/// In the order in which they need each other.
const MODULES: [&str; 2] = ["/lib/modules/nvme-core.ko", "/lib/modules/nvme.ko"];
const DRIVE: &str = "/dev/nvme0n1";
/// How long the driver may take to find the drive.
const LIMIT: Duration = Duration::from_secs(60);

/// The drive; it is set up when it is first asked for.
#[derive(Debug, Default)]
pub(crate) struct Nvme(OnceLock<Disk>);

impl Nvme {
    /// Starts to work, `pace` times slower than usual, unless it does already.
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

    /// Ends it in good order: all requests are over, and all that was written is read once more.
    pub(crate) fn end(&self) {
        if let Some(disk) = self.0.get() {
            disk.end();
            disk.check();
        }
    }

    /// What was done so far.
    pub(crate) fn said(&self, clocks: &Clocks) -> WitnessEvent {
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
        // The node is there before the drive can be opened, and nothing tells when it can.
        std::thread::sleep(Duration::from_millis(20));
    }
}
