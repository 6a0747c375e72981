//! The devices that a host can pass through: QEMU's arguments for them, and what the lab does with
//! them from outside, independently of the host.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use fdbox_lab::device::NVME_DEPTH;
use fdbox_lab::scenario::{Devices, Iommu};

use crate::drive;
use crate::frames::{self, Frames, Sent};
use crate::landings::{Landed, Landings};

/// The write rate of the NVMe drive: with as many requests as the guest keeps in flight, each takes
/// four seconds, so that some of them outlive the old kernel. Reads and flushes are not limited.
const NVME_WRITES_PER_SECOND: u32 = NVME_DEPTH / 4;

/// That of one that a guest uses while its host kexecs: in half a second it completes as many as are in flight.
const FAST_NVME_WRITES_PER_SECOND: u32 = NVME_DEPTH * 2;

/// The console of a kernel that runs next to the host's, in the run's folder.
pub(crate) const BOAT_SOCKET: &str = "boat.sock";

/// The IOMMU in front of them, as QEMU calls it: VT-d unless AMD-Vi is asked for. The kernel remaps interrupts by
/// AMD-Vi only on machines with a southbridge that QEMU does not have.
pub(crate) fn iommu(devices: Devices) -> &'static str {
    match devices.iommu() {
        Iommu::Legacy => "intel-iommu,intremap=on",
        Iommu::FirstStage => "intel-iommu,intremap=on,x-scalable-mode=on,x-flts=on",
        Iommu::Scalable | Iommu::ScalableIdentity | Iommu::FromScalable | Iommu::ToScalable => {
            "intel-iommu,intremap=on,x-scalable-mode=on,device-iotlb=on"
        }
        Iommu::AmdVi | Iommu::AmdViOff => "amd-iommu,intremap=off,dma-remap=on",
    }
}

/// QEMU's arguments for these devices. The run's folder is /lab/run.
pub(crate) fn arguments(devices: Devices) -> Vec<String> {
    match devices {
        Devices::None => Vec::new(),
        Devices::Cards(count, _) => (0..count).flat_map(card).collect(),
        Devices::Nvme => nvme(NVME_WRITES_PER_SECOND).into(),
        Devices::Igb => [
            "-device",
            "pcie-root-port,id=port0,chassis=1",
            "-device",
            "igb,bus=port0,romfile=",
        ]
        .map(str::to_owned)
        .into(),
        Devices::BoatConsole => boat_console().into(),
        Devices::BoatConsoleAndCard => boat_console().into_iter().chain(card(0)).collect(),
        Devices::BoatConsoleAndNvme => {
            let drive = nvme(FAST_NVME_WRITES_PER_SECOND);
            boat_console().into_iter().chain(drive).collect()
        }
        Devices::CardAndAtsUser => {
            // Nothing is connected to them. Linux does not switch ATS on for a device that does not
            // claim to ask for whole pages.
            let have_ats = [
                "-device",
                "pcie-root-port,id=port1,chassis=2",
                "-device",
                "virtio-net-pci,bus=port1,disable-legacy=on,iommu_platform=on,ats=on,romfile=",
                "-device",
                "pcie-root-port,id=port2,chassis=3",
                "-device",
                "virtio-net-pci,bus=port2,disable-legacy=on,iommu_platform=on,ats=on,\
                 x-ats-page-aligned=off,romfile=",
            ];
            let mut arguments: Vec<String> = card(0).into();
            arguments.extend(have_ats.map(str::to_owned));
            arguments
        }
    }
}

/// The third port, at 0x3e8. The machine does not wait for a connection.
fn boat_console() -> [String; 4] {
    [
        "-chardev".to_owned(),
        format!("socket,id=boat,path=/lab/run/{BOAT_SOCKET},server=on,wait=off"),
        "-device".to_owned(),
        "isa-serial,chardev=boat,index=2".to_owned(),
    ]
}

fn nvme(writes_per_second: u32) -> [String; 6] {
    let backend = format!(
        "if=none,id=nvme,format=raw,file=/lab/run/{},throttling.iops-write={writes_per_second}",
        drive::NVME_IMAGE
    );
    behind_port(0, "-drive", backend, "nvme,serial=lab,drive=nvme")
}

fn card(nic: u8) -> [String; 6] {
    // Nothing listens to what the device sends, but QEMU requires an address.
    let backend = format!(
        "dgram,id=net{nic},local.type=unix,local.path=/lab/run/{},\
         remote.type=unix,remote.path=/lab/run/nobody.sock",
        frames::socket(nic)
    );
    // No boot ROM: it would receive frames before the host does.
    let device = format!("e1000e,netdev=net{nic},romfile=");
    behind_port(nic, "-netdev", backend, &device)
}

/// A device behind a PCIe port of its own.
fn behind_port(port: u8, option: &str, backend: String, device: &str) -> [String; 6] {
    [
        "-device".to_owned(),
        format!("pcie-root-port,id=port{port},chassis={}", port + 1),
        option.to_owned(),
        backend,
        "-device".to_owned(),
        format!("{device},bus=port{port}"),
    ]
}

/// What the lab does with these devices, until it is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    frames: Vec<Frames>,
    landings: Option<Landings>,
}

impl Attached {
    /// Starts, for a machine that was started at `started`.
    pub(crate) fn start(devices: Devices, dir: &Path, started: Instant) -> Result<Self> {
        let (cards, has_drive) = match devices {
            Devices::None | Devices::Igb | Devices::BoatConsole => (0, false),
            Devices::Cards(count, _) => (count, false),
            Devices::CardAndAtsUser | Devices::BoatConsoleAndCard => (1, false),
            Devices::Nvme | Devices::BoatConsoleAndNvme => (0, true),
        };
        let send = |nic| Frames::send(dir, nic, started);
        let watch = || Landings::watch(&drive::nvme_image(dir), started);
        Ok(Self {
            frames: (0..cards).map(send).collect::<Result<_>>()?,
            landings: has_drive.then(watch).transpose()?,
        })
    }

    /// The frames sent to each card. The machine must be off.
    pub(crate) fn sent_frames(&mut self) -> Vec<Sent> {
        self.frames.drain(..).map(Frames::end).collect()
    }

    /// When each write reached the drive's image. The machine must be off.
    pub(crate) fn landed(&mut self) -> Result<Landed> {
        let landings = self.landings.take();
        landings.map_or(Ok(Landed::default()), Landings::end)
    }
}
