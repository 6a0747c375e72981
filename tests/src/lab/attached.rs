//! The devices that a host has to pass through: what QEMU is told of them, and what the lab does with them from
//! outside, whatever the host does.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use fdbox_lab::scenario::Devices;

use crate::frames::{self, Frames, Sent};

/// QEMU's arguments for them. The run's folder is /lab/run.
pub(crate) fn arguments(devices: Devices) -> Vec<String> {
    match devices {
        Devices::None => Vec::new(),
        Devices::Cards(count) => (0..count).flat_map(card).collect(),
    }
}

fn card(nic: u8) -> [String; 6] {
    // Nobody listens to what the device sends, but QEMU wants an address.
    let backend = format!(
        "dgram,id=net{nic},local.type=unix,local.path=/lab/run/{},\
         remote.type=unix,remote.path=/lab/run/nobody.sock",
        frames::socket(nic)
    );
    // No boot ROM: it would take frames before the host does.
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

/// What the lab does with them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Attached {
    frames: Vec<Frames>,
}

impl Attached {
    /// Begins, with a machine that was started then.
    pub(crate) fn start(devices: Devices, dir: &Path, started: Instant) -> Result<Self> {
        let cards = match devices {
            Devices::None => 0,
            Devices::Cards(count) => count,
        };
        let send = |nic| Frames::send(dir, nic, started);
        Ok(Self {
            frames: (0..cards).map(send).collect::<Result<_>>()?,
        })
    }

    /// What was sent to each card. The machine is off.
    pub(crate) fn sent_frames(&mut self) -> Vec<Sent> {
        self.frames.drain(..).map(Frames::end).collect()
    }
}
