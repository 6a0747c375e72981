//! `status`: show a guest, or the boxes of this host.

mod dot;
mod lifeboat;

use anyhow::bail;
use serde::Serialize;
use vmm_fdbox::coordinator::Boxes;
use vmm_fdbox::update::ExitStatus;
use vmm_fdbox::{
    AnyBox, BoxInfo, BoxName, Dependency, FdInfo, Home, OpenFdBox, SealedFdBox, dependencies,
};

use self::lifeboat::Lifeboat;
pub(super) use self::lifeboat::words_on_host;
use super::keeper;
use crate::cli::StatusArgs;
use crate::error::{chain, print, warn};
use crate::service::api::Client;
use crate::service::api::protocol::{GuestStatus, Reply, Request};

/// A box as `status --json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct BoxStatus {
    name: String,
    /// Its home.
    home: Home,
    state: &'static str,
    /// What a lifeboat has to do with it; `None`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    lifeboat: Option<lifeboat::Lent>,
    fds: Vec<FdStatus>,
}

/// A descriptor in a box.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct FdStatus {
    name: String,
    kind: String,
    state: String,
    bytes: u64,
    /// The names of the descriptors in the box that it depends on.
    needs: Vec<String>,
}

impl FdStatus {
    fn new(fd: &FdInfo, dependencies: &[Dependency]) -> Self {
        let needs = dependencies.iter().filter(|edge| edge.from == fd.name);
        Self {
            name: fd.name.to_string(),
            kind: fd.kind.clone(),
            state: fd.state.to_string(),
            bytes: fd.bytes,
            needs: needs.map(|edge| edge.to.to_string()).collect(),
        }
    }
}

pub(super) fn status(args: &StatusArgs) -> anyhow::Result<ExitStatus> {
    if let Some(path) = &args.api_socket {
        let guest = match Client::connect(path)?.ask(&Request::Status {}, |_| {})? {
            Reply::Status(guest) => guest,
            Reply::Error { message } => bail!(message),
            other => bail!("The VMM gave an unexpected answer: {other:?}"),
        };
        show(args.json, &guest, || describe_guest(&guest))?;
    } else {
        let boxes = list(&keeper::open(&args.home, true)?, args.box_name.as_ref())?;
        if let (Some(name), []) = (&args.box_name, &boxes[..]) {
            bail!("There is no box {name:?}: status without --box shows all of them");
        }
        if args.dot {
            print(&dot::graph(&boxes))?;
            return Ok(ExitStatus::Done);
        }
        let boat = match lifeboat::status() {
            // Boxes can be listed without the right to open the boat's node.
            Err(error) if !args.lifeboat => {
                warn(&chain(&error));
                None
            }
            boat => boat?.map(|status| Lifeboat::new(&status, &boxes)),
        };
        if args.lifeboat {
            show(args.json, &boat, || lifeboat::describe(boat.as_ref()))?;
        } else {
            show(args.json, &boxes, || describe_host(&boxes, boat.as_ref()))?;
        }
    }
    Ok(ExitStatus::Done)
}

fn show<T: Serialize>(json: bool, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if json {
        serde_json::to_string(value)?
    } else {
        text()
    };
    print(&format!("{}\n", text.trim_end()))
}

/// The boxes of a store, or the one with this name.
fn list<S: Boxes>(store: &S, name: Option<&BoxName>) -> anyhow::Result<Vec<BoxStatus>> {
    let (boxes, home) = (store.boxes()?, store.info()?.home);
    let boxes = boxes.into_iter();
    let boxes = boxes.filter(|info| name.is_none_or(|name| info.name == *name));
    boxes.map(|info| one_box(store, info, home)).collect()
}

fn one_box<S: Boxes>(store: &S, info: BoxInfo, home: Home) -> anyhow::Result<BoxStatus> {
    let fds = match store.open_box(&info.name)? {
        AnyBox::Open(open) => open.fds()?,
        AnyBox::Sealed(sealed) => sealed.fds()?,
    };
    let edges = dependencies(&fds);
    Ok(BoxStatus {
        name: info.name.to_string(),
        home,
        state: if info.sealed { "sealed" } else { "open" },
        lifeboat: lifeboat::Lent::of(store, &info.name),
        fds: fds.iter().map(|fd| FdStatus::new(fd, &edges)).collect(),
    })
}

fn describe_guest(guest: &GuestStatus) -> String {
    let mut text = describe_state(guest);
    for counts in &guest.devices {
        text += &format!(
            "\n  {:<8} virtio: {} requests, {} bytes, {} errors",
            counts.device, counts.requests, counts.bytes, counts.errors
        );
        if let Some(io) = &counts.io {
            text += &format!(", by {io}");
        }
    }
    for passed in &guest.host_devices {
        text += &format!("\n  {:<8} {} of the host", passed.device, passed.address);
    }
    if let Some(step) = &guest.step {
        text += &format!("\nThe current step of the update is {step}");
    }
    if let Some(previous) = &guest.previous_kernel {
        text += &format!("\nThe kernel before this one: {previous}");
    }
    if let Some(blackout) = &guest.blackout {
        let millis = |ns: u64| ns as f64 / 1e6;
        let total = millis(blackout.total_ns);
        text += &format!("\nIt came here by an update and was paused for {total:.1} ms:");
        for phase in &blackout.phases {
            text += &format!("\n  {:<12} {:>10.3} ms", phase.name, millis(phase.ns));
        }
    }
    text
}

fn describe_state(guest: &GuestStatus) -> String {
    format!(
        "{}: {}, {} vCPUs, {} MiB of {}, process {}",
        guest.name,
        serde_json::to_value(guest.state)
            .ok()
            .and_then(|s| s.as_str().map(str::to_owned))
            .unwrap_or_default(),
        guest.vcpus,
        guest.ram_mib,
        guest.ram_kind,
        guest.pid
    )
}

/// The boxes, and the lifeboat if there is one.
fn describe_host(boxes: &[BoxStatus], boat: Option<&Lifeboat>) -> String {
    let boxes = describe_boxes(boxes);
    match boat {
        Some(boat) => format!("{}\n{}", boxes.trim_end(), lifeboat::describe(Some(boat))),
        None => boxes,
    }
}

fn describe_boxes(boxes: &[BoxStatus]) -> String {
    if boxes.is_empty() {
        return "No boxes".into();
    }
    let mut text = String::new();
    for one in boxes {
        let home = match one.home {
            Home::Fdbox => String::new(),
            home => format!(", kept by {home}"),
        };
        let lent = one.lifeboat.map_or("", lifeboat::Lent::describe);
        text += &format!("{} ({}{home}{lent})\n", one.name, one.state);
        for fd in &one.fds {
            let mib = fd.bytes as f64 / f64::from(1 << 20);
            text += &format!(
                "  {:<16} {:<24} {:<10} {mib:>10.1} MiB",
                fd.name, fd.kind, fd.state
            );
            if !fd.needs.is_empty() {
                text += &format!("  needs {}", fd.needs.join(", "));
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use vmm_fdbox::BoxStore;
    use vmm_fdbox::fake::FakeStore;

    use super::*;
    use crate::devices::pci::HostDeviceStatus;
    use crate::devices::virtio::DeviceCounts;
    use crate::service::api::protocol::RunState;
    use crate::spec::MemoryKind;

    pub(super) fn a_box() -> BoxStatus {
        let fd = |name: &str, needs: &[&str]| FdStatus {
            name: name.into(),
            kind: format!("fdbox,{name}-v1"),
            state: "live".into(),
            bytes: 3 << 19,
            needs: needs.iter().map(|name| (*name).into()).collect(),
        };
        BoxStatus {
            name: "vm\"0".into(),
            home: Home::Fdbox,
            state: "sealed",
            lifeboat: None,
            fds: vec![fd("iommufd", &[]), fd("vfio0", &["iommufd"])],
        }
    }

    fn a_guest() -> GuestStatus {
        GuestStatus {
            name: "vm0".into(),
            state: RunState::Running,
            pid: 4711,
            vcpus: 2,
            cpu_features: Vec::new(),
            ram_kind: MemoryKind::Memfd,
            ram_mib: 512,
            tsc_khz: 0,
            step: None,
            last_update: None,
            previous_kernel: None,
            blackout: None,
            devices: vec![DeviceCounts {
                device: "blk0".into(),
                requests: 3,
                bytes: 4096,
                ..DeviceCounts::default()
            }],
            host_devices: vec![HostDeviceStatus {
                device: "vfio0".into(),
                address: "0000:01:00.0".into(),
            }],
        }
    }

    #[test]
    fn a_guest_is_shown_with_its_devices() {
        let text = describe_guest(&a_guest());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "vm0: running, 2 vCPUs, 512 MiB of memfd, process 4711",
                "  blk0     virtio: 3 requests, 4096 bytes, 0 errors",
                "  vfio0    0000:01:00.0 of the host",
            ]
        );
        let json = serde_json::to_value(a_guest()).unwrap();
        assert_eq!(json["host_devices"][0]["device"], "vfio0");
        assert_eq!(json["host_devices"][0]["address"], "0000:01:00.0");
        assert_eq!(json["devices"][0]["device"], "blk0");
    }

    #[test]
    fn an_older_vmm_does_not_know_devices_of_the_host() {
        let mut json = serde_json::to_value(a_guest()).unwrap();
        json.as_object_mut().unwrap().remove("host_devices");
        let guest: GuestStatus = serde_json::from_value(json).unwrap();
        assert!(guest.host_devices.is_empty());
    }

    #[test]
    fn one_box_is_shown_alone() {
        let store = FakeStore::new();
        let name = |name| BoxName::new(name).unwrap();
        for vm in ["vm0", "vm1"] {
            store.create(&name(vm)).unwrap();
        }
        let names = |wanted: Option<BoxName>| -> Vec<String> {
            let boxes = list(&store, wanted.as_ref()).unwrap();
            boxes.into_iter().map(|one| one.name).collect()
        };
        assert_eq!(names(None), ["vm0", "vm1"]);
        assert_eq!(names(Some(name("vm1"))), ["vm1"]);
        assert!(names(Some(name("vm"))).is_empty());
    }

    #[test]
    fn a_person_reads_what_needs_what() {
        let text = describe_boxes(&[a_box()]);
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].ends_with("1.5 MiB"), "{text}");
        assert!(lines[2].ends_with("1.5 MiB  needs iommufd"), "{text}");
        assert_eq!(describe_boxes(&[]), "No boxes");
    }
}
