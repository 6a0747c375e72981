//! `resume --handover`: take a guest over from the VMM at the other end of standard input.
//!
//! What `handover` says the new process does. Everything slow is done before `go`.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;

use anyhow::{Context, bail};
use vmm_fdbox::update::{Arrival, Arriving, ExitStatus, PartyError, ResumeFailed, ResumePlan};
use vmm_fdbox::{BoxName, BoxStore, Control, FdName};

use super::resume::finish;
use super::serve::{Surroundings, Welcome};
use crate::cli::ResumeArgs;
use crate::devices::console::ConsoleSource;
use crate::devices::pci;
use crate::devices::virtio;
use crate::error::chain;
use crate::guest::machine::{Machine, SavedDevices, Shell};
use crate::guest::state::{self, GuestState};
use crate::kvm::Host;
use crate::kvm::vcpu::RestoreNotes;
use crate::memory::GuestRam;
use crate::service::api::Server;
use crate::service::estate::fd;
use crate::socket::Title;
use crate::update::handover::{Hello, Link, LinkError, Order, Running, Word};
use crate::update::{MEMORY_FD, VM_FD, party_error};

pub(super) fn take_over(args: &ResumeArgs) -> anyhow::Result<ExitStatus> {
    let link = Link::from_stdin().context("No VMM hands a guest over here")?;
    let box_name = args.box_name.as_ref().context("No --box")?;
    let control = match Control::open() {
        Ok(control) => control,
        Err(error) => return fail(&link, &error.into()),
    };
    let ready = match Ready::get(args, box_name, &link, &control) {
        Ok(ready) => ready,
        Err(error) => return fail(&link, &error),
    };
    ready.run(args, link)
}

/// Tells the old VMM, which runs the guest on.
fn fail(link: &Link, error: &anyhow::Error) -> anyhow::Result<ExitStatus> {
    let message = chain(error.as_ref());
    // If nobody listens, nobody is harmed.
    let _ = link.send(&Word::Failed { message }, &[]);
    Ok(ExitStatus::NothingChanged)
}

/// All that is there before the guest stops.
struct Ready<'a> {
    box_name: &'a BoxName,
    hello: Hello,
    around: Surroundings,
    arriving: Arriving<&'a Control>,
    shell: Shell,
}

impl<'a> Ready<'a> {
    fn get(
        args: &ResumeArgs,
        box_name: &'a BoxName,
        link: &Link,
        control: &'a Control,
    ) -> anyhow::Result<Self> {
        let (hello, fds) = match link.receive(None)? {
            (Order::Hello(hello), fds) => (hello, fds),
            (order, _) => bail!("The old VMM began with {order:?}"),
        };
        let fds = hello.fds.iter().cloned().zip(fds).collect();
        let around = adopt_surroundings(args, &hello, fds)?;
        let host = Host::open()?;
        link.send(&Word::Ready, &[])?;
        match link.receive(None)? {
            (Order::Prebuild, _) => {}
            (order, _) => bail!("The old VMM said {order:?} instead of prebuild"),
        }
        let mut arriving = Arriving::open(control, box_name)?;
        let shell = prebuild(&mut arriving, &host, &hello, &around)?;
        link.send(&Word::Prebuilt, &[])?;
        Ok(Self {
            box_name,
            hello,
            around,
            arriving,
            shell,
        })
    }

    /// Waits for the guest, runs it and is its VMM.
    fn run(self, args: &ResumeArgs, link: Link) -> anyhow::Result<ExitStatus> {
        let Self {
            box_name,
            hello,
            mut around,
            arriving,
            shell,
        } = self;
        let mut fds: HashMap<String, OwnedFd> = match link.receive(None) {
            Ok((Order::Go { fds: names }, fds)) => names.into_iter().zip(fds).collect(),
            // It gave up, or is gone with its guest.
            Ok(_) | Err(LinkError::Gone) => return Ok(ExitStatus::NothingChanged),
            Err(error) => return fail(&link, &error.into()),
        };
        if let Some(client) = fds.remove(fd::CONSOLE_CLIENT) {
            adopt_client(&mut around, client.into())?;
        }
        let mut plan = ResumePlan::new(box_name.clone(), &state::KNOWN);
        plan.fail_at = args.fail_at;
        let restored = arriving.arrive(plan).and_then(|incoming| {
            incoming.restore(|incoming| restore(incoming, shell, fds, &hello, &around, &link))
        });
        let ((machine, notes), resumed) = match restored {
            Ok(restored) => restored,
            Err(failed) => return fail(&link, &explain(&failed)),
        };
        let vmm = around.start(machine);
        around.title.set(true);
        let report = finish(args, box_name, vmm.machine(), &notes, resumed);
        vmm.chronicle().arrived(report.blackout());
        let running = Word::Running(Running {
            report: serde_json::to_value(&report)?,
            text: report.to_string(),
        });
        // An old VMM that is gone does not need to know.
        let _ = link.send(&running, &[]);
        around.serve_with(vmm, |welcome| {
            thread::spawn(move || receive_clients(&link, &welcome));
        })
    }
}

/// Why, without the advice for a resume: it is the old VMM that tries again.
fn explain(failed: &ResumeFailed) -> anyhow::Error {
    let mut text = format!("{}: {}", failed.step, chain(&failed.error));
    if let Some(problem) = &failed.problem {
        text += "; ";
        text += problem;
    }
    anyhow::Error::msg(text)
}

/// What the old VMM opened, and its own standard input.
fn adopt_surroundings(
    args: &ResumeArgs,
    hello: &Hello,
    mut fds: HashMap<String, OwnedFd>,
) -> anyhow::Result<Surroundings> {
    if let Some(stdin) = fds.remove(fd::STDIN) {
        rustix::stdio::dup2_stdin(stdin).context("Cannot take standard input over")?;
    }
    // Not before the guest runs here.
    let title = Title::new(false);
    let listener = fds.remove(fd::CONSOLE);
    let source = ConsoleSource::adopt(&args.console, listener, hello.terminal, &title)?;
    let server = match (&args.api_socket, fds.remove(fd::API)) {
        (Some(path), Some(listener)) => {
            let server = Server::adopt(path, listener.into(), &title);
            Some(server.context("Cannot take the API socket over")?)
        }
        _ => None,
    };
    Surroundings::with(&args.console, source, server, title)
}

fn adopt_client(around: &mut Surroundings, client: UnixStream) -> anyhow::Result<()> {
    around.console.adopt_client(client.try_clone()?);
    around.source.adopt_client(client);
    Ok(())
}

/// Takes out what is in the box and builds everything around it.
fn prebuild<S: BoxStore>(
    arriving: &mut Arriving<S>,
    host: &Host,
    hello: &Hello,
    around: &Surroundings,
) -> anyhow::Result<Shell> {
    // The VM first: a guest_memfd comes out bound to it.
    let vm = host.adopt_vm(arriving.take(&FdName::new(VM_FD)?)?)?;
    let ram = arriving.take(&FdName::new(MEMORY_FD)?)?;
    let machine = &hello.machine;
    let ram = GuestRam::adopt(ram, machine.ram.clone(), machine.memory_kind)?;
    let (cpus, places) = (hello.vcpus, &hello.places);
    Ok(Shell::build(host, vm, ram, cpus, places, &around.on_end)?)
}

/// Puts the state into what was built, and asks whether to go on.
fn restore<S: BoxStore>(
    incoming: &mut Arrival<S>,
    shell: Shell,
    mut fds: HashMap<String, OwnedFd>,
    hello: &Hello,
    around: &Surroundings,
    link: &Link,
) -> Result<(Machine, RestoreNotes), PartyError> {
    let state = GuestState::read(&incoming.frame()).map_err(party_error)?;
    if state.machine != hello.machine {
        return Err("The guest is not the one that was announced".into());
    }
    let names = pci::bus::names(state.pci.as_ref()).into_iter();
    let passed = names.filter_map(|name| fds.remove_entry(&name)).collect();
    let virtio = virtio::inherit(&state.virtio, fds, &around.title).map_err(party_error)?;
    let devices = SavedDevices { virtio, passed };
    let console = around.console.clone();
    let restored = Machine::restore(shell, &state, devices, console);
    let restored = restored.map_err(party_error)?;
    incoming.mark("commit");
    let asked = link.send(&Word::Restored, &[]);
    let answer = asked.and_then(|()| link.receive(None));
    match answer {
        // Without the old VMM the guest runs nowhere else.
        Ok((Order::Commit, _)) | Err(LinkError::Gone) => Ok(restored),
        Ok((order, _)) => Err(format!("The old VMM said {order:?} instead of commit").into()),
        Err(error) => Err(party_error(error)),
    }
}

/// Serves the clients that the old VMM leaves, until it is gone.
fn receive_clients(link: &Link, welcome: &Welcome) {
    while let Ok((Order::Clients, clients)) = link.receive(None) {
        clients
            .into_iter()
            .for_each(|client| welcome(client.into()));
    }
}
