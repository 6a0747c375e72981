//! The guests of an update, reached over the API sockets of their VMMs.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use rustix::net::UCred;
use vmm_fdbox::coordinator::Owner;
use vmm_fdbox::frame::Description;
use vmm_fdbox::member::{Join, Module};
use vmm_fdbox::update::{Destination, Limits, MemberOutcome, Stopped};
use vmm_fdbox::{BoxName, Finding, Info, Kind};

use crate::cli::LiveUpdateArgs;
use crate::devices::vfio;
use crate::error::chain;
use crate::guest::cpuid::host::Optional;
use crate::identity::Identity;
use crate::service::api::protocol::{GuestStatus, Reply, Request};
use crate::service::api::{Client, ClientError};
use crate::update;

/// How long a VMM may take to answer before it takes part.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A guest. If its VMM does not answer, the guest is not ready and is named after its socket.
#[derive(Debug)]
pub(super) struct Guest {
    name: String,
    status: Option<Box<GuestStatus>>,
    /// The VMM's process, as reported by the kernel: a compromised VMM could claim to be another
    /// one.
    process: Option<UCred>,
    /// `Err` has the reason why the VMM cannot be asked.
    client: Result<Client, String>,
}

fn unexpected(reply: &Reply) -> String {
    format!("The VMM gave an unexpected answer: {reply:?}")
}

fn ask_status(socket: &Path) -> Result<(Client, Reply), ClientError> {
    let mut client = Client::connect(socket)?;
    client.set_limit(Some(ANSWER_LIMIT))?;
    let reply = client.ask(&Request::Status {}, |_| {})?;
    Ok((client, reply))
}

impl Guest {
    /// Asks the VMM for its guest's name, so that it can take part in an update.
    pub(super) fn connect(socket: &Path) -> Self {
        let stem = socket.file_stem().unwrap_or_default().to_string_lossy();
        let (status, client) = match ask_status(socket) {
            Ok((client, Reply::Status(status))) => (Some(status), Ok(client)),
            Ok((_, reply)) => (None, Err(unexpected(&reply))),
            Err(error) => (None, Err(chain(&error))),
        };
        let name = status.as_ref().map(|status| status.name.clone());
        Self {
            name: name.unwrap_or_else(|| stem.into()),
            status,
            process: client.as_ref().ok().and_then(Client::sender),
            client,
        }
    }

    /// Checks that its name is that of its socket, which the operator chose: a compromised VMM
    /// could pose as another guest's.
    pub(super) fn named_by(mut self, socket: &Path) -> Self {
        let stem = socket.file_stem().unwrap_or_default().to_string_lossy();
        if self.name != stem {
            let name = std::mem::replace(&mut self.name, stem.into());
            self.client = Err(format!(
                "The VMM calls its guest {name}: with --all the guest of NAME.sock must be called NAME"
            ));
        }
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The optional CPU features it was given, as far as they are known.
    pub(super) fn cpu_features(&self) -> &[Optional] {
        let status = self.status.as_ref();
        status.map_or(&[], |status| &status.cpu_features)
    }

    /// The VMM's process and user.
    pub(super) fn process(&self) -> Option<(u32, Owner)> {
        let UCred { pid, uid, gid } = self.process?;
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        Some((
            pid.as_raw_nonzero().get().unsigned_abs(),
            Owner { uid, gid },
        ))
    }

    /// Everything that is known about the VMM's process.
    pub(super) fn identity(&self) -> anyhow::Result<Identity> {
        let (pid, owner) = self.process().context("The VMM's process is not known")?;
        let identity = Identity::of(pid).context("Cannot find out who the VMM runs as")?;
        // Another process has this number by now.
        ensure!(identity.is(owner.uid, owner.gid), "The VMM is gone");
        Ok(identity)
    }

    /// The kinds of descriptors that go into its box, as far as they are known.
    pub(super) fn kinds(&self, module: Module) -> BTreeSet<Kind> {
        let status = self.status.as_ref();
        status.map_or_else(BTreeSet::new, |status| {
            let kinds = update::kinds(status.ram_kind, !status.host_devices.is_empty());
            update::in_box(kinds, Info::from(module).features)
        })
    }

    /// Reasons why its passed-through devices cannot go through a box. The VMM reports their
    /// addresses.
    pub(super) fn look_at_devices(&self) -> Vec<Finding> {
        let devices = self.status.iter().flat_map(|status| &status.host_devices);
        vfio::look(devices.filter_map(|device| device.address.parse().ok()))
    }

    /// A description of the state it would write.
    pub(super) fn describe_state(&mut self) -> anyhow::Result<Description> {
        let client = self.client.as_mut().map_err(|why| anyhow!(why.clone()))?;
        match client.ask(&Request::DescribeState {}, |_| {})? {
            Reply::State { state } => Ok(*state),
            Reply::Error { message } => bail!(message),
            other => bail!(unexpected(&other)),
        }
    }

    /// Makes the VMM take part: from then on its socket speaks the member protocol.
    pub(super) fn take_part(&mut self) -> Result<(), String> {
        let client = self.client.as_mut().map_err(|why| why.clone())?;
        let refused = match client.ask(&Request::JoinUpdate {}, |_| {}) {
            Ok(Reply::Ok) => return Ok(()),
            Ok(Reply::Error { message }) => message,
            Ok(other) => unexpected(&other),
            Err(error) => chain(&error),
        };
        self.client = Err(refused.clone());
        Err(refused)
    }

    pub(super) fn into_socket(self) -> Result<UnixStream, String> {
        let client = self.client?;
        client.into_stream().map_err(|error| chain(&error))
    }

    /// The result if nothing was done.
    pub(super) fn untouched(&self) -> MemberOutcome {
        MemberOutcome {
            name: self.name.clone(),
            stopped: Some(Stopped::untouched("Nothing changed")),
            not_ready: false,
            report: None,
            findings: Vec::new(),
        }
    }
}

/// What a guest's VMM is told about the update.
pub(super) fn join(
    guest: &Guest,
    args: &LiveUpdateArgs,
    module: Module,
    limits: Limits,
) -> anyhow::Result<Join> {
    let name = guest.name();
    let box_name = match &args.box_name {
        Some(name) => name.clone(),
        None => BoxName::new(name).with_context(|| format!("{name:?} is not the name of a box"))?,
    };
    let fails = match &args.fleet.fail_guest {
        Some(guest) => guest == name,
        None => !args.fleet.all,
    };
    let fail_at = args.fail_at.filter(|step| {
        let is_ours = super::of_coordinator(args, *step);
        fails && !is_ours
    });
    Ok(Join {
        box_name,
        to: match (&args.binary, &args.kernel) {
            (Some(_), _) => Destination::Successor,
            (None, Some(_)) if super::lifeboat::is_asked_for(args) => Destination::Lifeboat,
            (None, Some(_)) => Destination::NextKernel,
            (None, None) => Destination::ThisKernel,
        },
        module,
        limits: limits.into(),
        position: position(&args.fleet.order, name),
        fail_at,
    })
}

/// A guest's place in the order; `None` if no order was given. Guests that are not named come last.
pub(super) fn position(order: &[String], name: &str) -> Option<u32> {
    let named = order.iter().position(|other| other == name);
    let last = (!order.is_empty()).then_some(order.len());
    named.or(last).and_then(|at| u32::try_from(at).ok())
}

/// Checks that names and options are consistent.
pub(super) fn check(guests: &[Guest], args: &LiveUpdateArgs) -> anyhow::Result<()> {
    let names: Vec<&str> = guests.iter().map(Guest::name).collect();
    check_names(&names, &args.fleet.order)?;
    if args.fleet.not_ready.is_some() && !args.fleet.all {
        bail!("--not-ready is for several guests: what becomes of the others");
    }
    if args.box_name.is_some() && names.len() > 1 {
        bail!("--box names one box, for one guest");
    }
    Ok(())
}

pub(super) fn check_names(names: &[&str], order: &[String]) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = names.iter().find(|name| !seen.insert(**name)) {
        bail!("Two guests are named {twice}: their boxes would be the same");
    }
    if let Some(unknown) = order.iter().find(|name| !seen.contains(name.as_str())) {
        bail!("--order names {unknown}, and there is no such guest here");
    }
    Ok(())
}
