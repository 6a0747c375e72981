//! The end of an update in the host that it did not leave: what is undone, and the result.

use super::super::parties::Host;
use super::super::step::ExitStatus;
use super::{
    Entry, Fleet, FleetFailure, FleetOutcome, Member, MemberOutcome, Stopped, in_parallel,
};
use crate::error::Chain;

impl<H: Host, M: Member> Fleet<'_, H, M> {
    /// Rolls back every guest that still takes part, and the host.
    pub(super) fn give_up(mut self, failure: Option<FleetFailure>) -> FleetOutcome {
        let involved = self.entries.iter_mut().filter(|entry| entry.is_involved());
        in_parallel(involved, |entry| {
            if entry.down {
                let end = entry.member.roll_back();
                entry.stopped = entry.stopped.take().map(|why| why.and_then(end));
                return;
            }
            entry.stopped = Some(if entry.begun {
                entry.member.roll_back()
            } else {
                Stopped::untouched("Nothing changed")
            });
        });
        let lost = |entry: &&mut Entry<M>| {
            let stopped = entry.stopped.as_ref();
            stopped.is_some_and(|stopped| stopped.status == ExitStatus::GuestLost)
        };
        in_parallel(self.entries.iter_mut().filter(lost), |entry| {
            entry.stopped = entry.member.look_again().or(entry.stopped.take());
        });
        let mut problems = Vec::new();
        if self.loaded
            && let Err(error) = self.host.unload()
        {
            problems.push(format!("The next kernel stays loaded: {}", Chain(&*error)));
        }
        self.outcome(failure, problems)
    }

    pub(super) fn outcome(
        self,
        failure: Option<FleetFailure>,
        problems: Vec<String>,
    ) -> FleetOutcome {
        let member = |mut entry: Entry<M>| MemberOutcome {
            report: entry.member.report(),
            name: entry.member.name().to_owned(),
            findings: entry
                .stopped
                .as_ref()
                .map_or_else(Vec::new, |stopped| stopped.findings.clone()),
            stopped: entry.stopped,
            not_ready: entry.not_ready,
        };
        FleetOutcome {
            cancelled: failure.as_ref().is_some_and(|failure| failure.cancelled),
            failure: failure.map(|failure| (failure.step, failure.message)),
            members: self.entries.into_iter().map(member).collect(),
            findings: self.findings,
            problems,
        }
    }
}
