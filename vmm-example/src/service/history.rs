//! The history of a guest: sent to listeners, and counted.

use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_fdbox::facts::PreviousKernel;
use vmm_fdbox::update::{Event, Step};

use crate::metrics::{Counted, Metrics};
use crate::service::api::peer::{Peer, Received};
use crate::service::api::protocol::Reply;
use crate::service::events::{EventHub, Notice};
use crate::service::report::{Blackout, HostReport};
use crate::service::update_message::{UpdateEnd, UpdateResult};

/// Receives events, on any thread.
pub(crate) type OnEvent = Arc<dyn Fn(&Event) + Send + Sync>;

/// How often to check whether a listening client is still there while nothing happens.
const LOOK: Duration = Duration::from_millis(500);

/// How long listening clients may take to receive the last event.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Results of updates, with their names in metrics.
const RESULTS: [(UpdateResult, &str); 6] = [
    (UpdateResult::Ready, "ready"),
    (UpdateResult::Done, "done"),
    (UpdateResult::HandedOver, "handed-over"),
    (UpdateResult::NothingChanged, "nothing-changed"),
    (UpdateResult::RolledBack, "rolled-back"),
    (UpdateResult::GuestLost, "guest-lost"),
];

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct History {
    guest: String,
    hub: EventHub,
    began: Instant,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    step: Option<Step>,
    last: Option<UpdateResult>,
    /// Number of updates by result, as in [`RESULTS`].
    ends: [u64; RESULTS.len()],
    blackout: Option<Blackout>,
    previous_kernel: Option<PreviousKernel>,
}

impl History {
    pub(crate) fn new(guest: &str) -> Self {
        Self {
            guest: guest.into(),
            hub: EventHub::default(),
            began: Instant::now(),
            counts: Mutex::default(),
        }
    }

    /// Notifies all listeners.
    pub(crate) fn note(&self, event: &str) {
        self.hub.tell(&Notice::now(&self.guest, event));
    }

    /// Records that the guest has ended, and why. Returns when all listening clients were sent this,
    /// because the process ends next.
    pub(crate) fn ended(&self, reason: &str) {
        let mut notice = Notice::now(&self.guest, "ended");
        notice.message = Some(reason.into());
        self.hub.tell(&notice);
        self.hub.close();
        self.hub.wait_until_heard(LAST_WORD);
    }

    /// Records that the guest arrived by an update.
    pub(crate) fn arrived(&self, host: &HostReport, blackout: Option<&Blackout>) {
        let mut counts = self.counts();
        counts.blackout = blackout.cloned();
        counts.previous_kernel = host.previous_kernel().cloned();
        drop(counts);
        let previous = host.previous_kernel();
        let notice = Notice {
            message: previous.map(|previous| format!("the kernel before this one: {previous}")),
            ..Notice::now(&self.guest, "arrived")
        };
        self.hub.tell(&notice);
    }

    pub(crate) fn update_begin(&self) {
        self.note("update-begin");
    }

    pub(crate) fn update_event(&self, event: &Event) {
        if let Event::Started(step) = event {
            self.counts().step = Some(*step);
        }
        // `pausing` and the like are recorded regardless of who stops the guest.
        let of_guest = match event {
            Event::Started(Step::Pause) => Some("pausing"),
            Event::Done(Step::Pause) => Some("paused"),
            _ => None,
        };
        if let Some(event) = of_guest {
            self.note(event);
        }
        self.hub.tell(&Notice::of_update(&self.guest, event));
    }

    pub(crate) fn update_end(&self, end: &UpdateEnd) {
        let mut counts = self.counts();
        counts.step = None;
        counts.last = Some(end.result);
        let at = RESULTS.iter().position(|(result, _)| *result == end.result);
        counts.ends[at.unwrap_or_default()] += 1;
        drop(counts);
        self.tell_end(end);
    }

    /// Sends nothing more: another VMM has the guest.
    pub(crate) fn close(&self) {
        self.hub.close();
    }

    fn tell_end(&self, end: &UpdateEnd) {
        if end.paused_ns.is_some() {
            self.note("resumed");
        }
        let notice = Notice {
            message: Some(end.message.clone()),
            ..Notice::now(&self.guest, "update-end")
        };
        self.hub.tell(&notice);
    }

    /// The current step of an update.
    pub(crate) fn step(&self) -> Option<String> {
        self.counts().step.map(|step| step.name().into())
    }

    pub(crate) fn last_update(&self) -> Option<UpdateResult> {
        self.counts().last
    }

    pub(crate) fn blackout(&self) -> Option<Blackout> {
        self.counts().blackout.clone()
    }

    pub(crate) fn previous_kernel(&self) -> Option<PreviousKernel> {
        self.counts().previous_kernel.clone()
    }

    /// Sends all events to a client, until it hangs up or falls behind.
    pub(crate) fn stream(&self, peer: &mut dyn Peer) {
        let listener = self.hub.listen();
        // Tells the client that it misses nothing from here on.
        if !peer.send(&Reply::Notice(Notice::now(&self.guest, "listening"))) {
            return;
        }
        loop {
            let goes_on = match listener.notices.recv_timeout(LOOK) {
                Ok(notice) => peer.send(&Reply::Notice(notice)),
                Err(RecvTimeoutError::Timeout) => {
                    let moment = Some(Duration::from_millis(1));
                    !matches!(peer.receive(moment), Received::Gone)
                }
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted for History {
    fn count(&self, metrics: &mut Metrics) {
        let counts = self.counts();
        let uptime = self.began.elapsed().as_secs_f64();
        metrics.gauge(
            "uptime_seconds",
            "How long this VMM has had the guest.",
            &[(&[], uptime)],
        );
        let labels = RESULTS.map(|(_, name)| [("result", name)]);
        let samples: Vec<_> = labels
            .iter()
            .zip(counts.ends)
            .map(|(labels, count)| (&labels[..], count))
            .collect();
        metrics.counter(
            "updates_total",
            "Updates that this VMM began, by how they ended.",
            &samples,
        );
        let Some(blackout) = &counts.blackout else {
            return;
        };
        let seconds = |ns: u64| ns as f64 / 1e9;
        metrics.gauge(
            "last_blackout_seconds",
            "How long the guest was paused when it came to this VMM.",
            &[(&[], seconds(blackout.total_ns))],
        );
        let labels: Vec<_> = blackout
            .phases
            .iter()
            .map(|phase| [("phase", phase.name.as_str())])
            .collect();
        let samples: Vec<_> = labels
            .iter()
            .zip(&blackout.phases)
            .map(|(labels, phase)| (&labels[..], seconds(phase.ns)))
            .collect();
        metrics.gauge(
            "last_blackout_phase_seconds",
            "The same by phase.",
            &samples,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::report::PhaseReport;
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::sync::mpsc::{Sender, channel};

    /// A client that notes what it is sent, and says so for the first time.
    struct Client {
        heard: Arc<Mutex<Vec<String>>>,
        listens: Option<Sender<()>>,
    }

    impl Peer for Client {
        fn send(&mut self, reply: &Reply) -> bool {
            if let Some(listens) = self.listens.take() {
                listens.send(()).unwrap();
            }
            if let Reply::Notice(notice) = reply {
                self.heard.lock().unwrap().push(notice.event.clone());
            }
            true
        }

        fn receive(&mut self, _: Option<Duration>) -> Received {
            Received::Nothing
        }

        fn socket(&self) -> io::Result<UnixStream> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[test]
    fn whoever_listens_hears_of_the_end_before_the_process_ends() {
        for _ in 0..100 {
            let history = Arc::new(History::new("vm0"));
            let (listens, is_there) = channel();
            let heard = Arc::<Mutex<Vec<String>>>::default();
            let mut client = Client {
                heard: heard.clone(),
                listens: Some(listens),
            };
            let stream = history.clone();
            let thread = std::thread::spawn(move || stream.stream(&mut client));
            is_there.recv().unwrap();
            history.ended("off");
            assert_eq!(*heard.lock().unwrap(), ["listening", "ended"]);
            thread.join().unwrap();
        }
    }

    #[test]
    fn figures_tell_how_updates_ended_and_what_the_last_one_took() {
        let history = History::new("vm0");
        history.update_event(&Event::Started(Step::Seal));
        assert_eq!(history.step().as_deref(), Some("seal"));
        history.update_end(&UpdateEnd::ready());
        assert_eq!(history.step(), None);
        let blackout = Blackout {
            total_ns: 1_500_000_000,
            phases: vec![PhaseReport {
                name: "jump".into(),
                ns: 1_000_000_000,
            }],
        };
        history.arrived(&HostReport::read(), Some(&blackout));
        let mut metrics = Metrics::of("vm0");
        history.count(&mut metrics);
        let text = metrics.finish();
        for line in [
            "vmm_example_updates_total{guest=\"vm0\",result=\"ready\"} 1",
            "vmm_example_updates_total{guest=\"vm0\",result=\"rolled-back\"} 0",
            "vmm_example_last_blackout_seconds{guest=\"vm0\"} 1.5",
            "vmm_example_last_blackout_phase_seconds{guest=\"vm0\",phase=\"jump\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
    }
}
