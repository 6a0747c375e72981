//! `resume --all`: every guest that waits, each in a process of its own.
//!
//! A guest's process reads its state, says its place in the order and waits for its turn;
//! then it rebuilds the guest, runs it, reports, and stays as its VMM. All of that over its
//! standard input and output, one JSON object a line. If this process dies the guests do
//! not wait for ever: a turn that nobody gives is taken.

mod child;
mod report;

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;
use std::{fs, thread};

use anyhow::Context;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use vmm_fdbox::update::{ExitStatus, STATE_FD};
use vmm_fdbox::{
    AnyBox, BoxError, BoxInfo, BoxName, BoxStore, Control, Hold, OpenFdBox, SealedFdBox,
};

use self::child::Child;
use self::report::Total;
use super::resume::{report_path, write_report};
use crate::cli::ResumeArgs;
use crate::error::{self, chain, warn};
use crate::service::report::ResumeReport;

/// What a guest's process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "kebab-case")]
enum Said {
    /// The state is read; the guest's place in the order.
    Ready {
        position: Option<u32>,
    },
    /// The guest runs: the next one may.
    Entered,
    /// How it went.
    Runs {
        report: Box<ResumeReport>,
    },
    Failed {
        message: String,
    },
}

fn say(said: &Said) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(said)?)?;
    out.flush()
}

/// In the guest's process: says that it could go on, and waits until it may.
pub(super) fn wait_for_turn(position: Option<u32>) {
    // Whatever goes wrong with this, the guest is not to wait for it.
    if say(&Said::Ready { position }).is_ok() {
        let _ = io::stdin().lock().read_line(&mut String::new());
    }
}

/// In the guest's process: the guest runs.
pub(super) fn tell_entry() {
    // Who does not hear this hears the report.
    let _ = say(&Said::Entered);
}

/// In the guest's process: how it went.
pub(super) fn tell_report(report: &ResumeReport) -> io::Result<()> {
    let report = Box::new(report.clone());
    say(&Said::Runs { report })
}

/// In the guest's process: the guest cannot run.
pub(super) fn tell_failure(message: &str) {
    let message = message.into();
    // The exit status says so too.
    let _ = say(&Said::Failed { message });
}

pub(super) fn resume(args: &ResumeArgs) -> anyhow::Result<ExitStatus> {
    let began = Instant::now();
    let control = Control::open()?;
    let Waiting { boxes, busy } = waiting(&control)?;
    for name in busy {
        warn(&format!(
            "{name}: another process works on this box, it is left alone"
        ));
    }
    let dir = &args.all.run_dir;
    fs::create_dir_all(dir).with_context(|| format!("Cannot create {}", dir.display()))?;
    let (sender, heard) = channel();
    let children: Vec<_> = boxes
        .iter()
        .enumerate()
        .map(|(at, name)| Child::spawn(name, args, began, listener(at, &sender)))
        .collect();
    drop(sender);
    let total = supervise(children, &heard);
    show(args, &total)?;
    Ok(total.exit_status())
}

/// The boxes with the state of a VM in them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Waiting {
    /// Sealed, or left open by a resume that was killed.
    boxes: Vec<BoxName>,
    /// An update or a resume works on them.
    busy: Vec<BoxName>,
}

fn waiting<S: BoxStore>(store: &S) -> Result<Waiting, BoxError> {
    let mut found = Waiting::default();
    for BoxInfo { name, .. } in store.boxes()? {
        match look_into(store, &name) {
            Ok(true) => found.boxes.push(name),
            Ok(false) => {}
            Err(error) => match error.errno() {
                Errno::AGAIN => found.busy.push(name),
                // Somebody deleted it just now.
                Errno::NOENT | Errno::NODEV | Errno::NXIO => {}
                _ => return Err(error),
            },
        }
    }
    Ok(found)
}

/// Whether there is the state of a VM in a box.
fn look_into<S: BoxStore>(store: &S, name: &BoxName) -> Result<bool, BoxError> {
    let _claim = store.claim(name, Hold::Exclusive)?;
    let fds = match store.open_box(name)? {
        AnyBox::Sealed(sealed) => sealed.fds()?,
        AnyBox::Open(open) => open.fds()?,
    };
    Ok(fds.iter().any(|fd| fd.name.to_string() == STATE_FD))
}

/// Something that a guest's process said; `None`: it says nothing more.
type Word = (usize, Option<Said>);

/// Passes on what a guest's process says.
fn listener(at: usize, sender: &Sender<Word>) -> impl FnOnce(Box<dyn BufRead + Send>) + use<> {
    let sender = sender.clone();
    move |reader| {
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if let Ok(said) = serde_json::from_str(&line) {
                    let runs = matches!(said, Said::Runs { .. });
                    // Who listens has nothing else to do.
                    let _ = sender.send((at, Some(said)));
                    if runs {
                        return;
                    }
                }
            }
            let _ = sender.send((at, None));
        });
    }
}

/// Gives each guest its turn and gathers how it went.
fn supervise(mut children: Vec<Child>, heard: &Receiver<Word>) -> Total {
    // Who has not said its place might be first.
    while children.iter().any(Child::is_silent) {
        hear(&mut children, heard);
    }
    loop {
        let turn = turns(&children);
        for &at in &turn {
            children[at].go();
        }
        while children.iter().any(Child::is_on) {
            hear(&mut children, heard);
        }
        if turn.is_empty() {
            while children.iter().any(Child::owes_report) {
                hear(&mut children, heard);
            }
            return Total::of(children.into_iter().map(Child::finish).collect());
        }
    }
}

fn hear(children: &mut [Child], heard: &Receiver<Word>) {
    match heard.recv() {
        Ok((at, Some(said))) => children[at].said(said),
        Ok((at, None)) => children[at].ended(),
        // Nobody is left to say anything.
        Err(_) => children.iter_mut().for_each(Child::ended),
    }
}

/// Who goes next: the first place that waits, with all that share it. Those without a place
/// come together, last.
fn turns(children: &[Child]) -> Vec<usize> {
    let key = |position: Option<u32>| position.map_or(u64::MAX, u64::from);
    let waiting = children.iter().enumerate();
    let waiting: Vec<_> = waiting
        .filter_map(|(at, child)| Some((at, key(child.place()?))))
        .collect();
    let first = waiting.iter().map(|(_, key)| *key).min();
    let same = waiting.into_iter().filter(|(_, key)| Some(*key) == first);
    same.map(|(at, _)| at).collect()
}

fn show(args: &ResumeArgs, total: &Total) -> anyhow::Result<()> {
    let json = serde_json::to_string(total)?;
    if let Some(path) = &args.report
        && let Err(error) = write_total(path, &json)
    {
        warn(&format!("The report is lost: {}", chain(error.as_ref())));
    }
    if args.json {
        error::say(&json);
    } else {
        // As for standard output, to where errors go.
        let _ = write!(io::stderr(), "{total}");
    }
    Ok(())
}

fn write_total(path: &Path, json: &str) -> anyhow::Result<()> {
    write_report(&report_path(path, "total"), json)
}

#[cfg(test)]
mod tests;
