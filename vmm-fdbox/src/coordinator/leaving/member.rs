//! A guest's VMM as a member of a fleet: forwards each step of the update to it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use serde_json::Value;

use super::{Boxes, RemoteLeaving};
use crate::deadline::Deadline;
use crate::error::Chain;
use crate::finding::Finding;
use crate::kind::Kind;
use crate::member::{ChannelError, HOME_FD, LeavingReply, LeavingRequest, Lent};
use crate::update::{ExitStatus, Member, Objection, Stopped, box_in_the_way};

impl<B: Boxes> RemoteLeaving<B> {
    fn greet(&mut self) -> Result<(), Stopped> {
        let limit = self.limits.preflight;
        let greeted = match &mut self.connection {
            Ok(connection) => connection.greet(Deadline::within(limit)),
            Err(why) => return Err(Stopped::untouched(why.clone())),
        };
        if let Err(error) = greeted {
            let stopped = self.give_up(&error);
            return Err(Stopped {
                // The VMM has not been asked to do anything yet.
                status: ExitStatus::NothingChanged,
                ..stopped
            });
        }
        Ok(())
    }

    /// Asks it to join the update, which it does unless there is a blocker.
    fn ask_to_join(&mut self) -> Result<(), Stopped> {
        let limit = self.limits.preflight;
        let join = LeavingRequest::Join(self.join.clone());
        let mut found = std::mem::take(&mut self.found);
        let joined = self.ask(&join, &Lent::default(), limit);
        let joined = joined.map_err(|mut stopped| {
            found.append(&mut stopped.findings);
            Stopped {
                findings: std::mem::take(&mut found),
                ..stopped
            }
        });
        match joined?.message {
            LeavingReply::Joined {
                pid,
                kinds,
                findings,
            } => {
                self.process.is_said_to_be(pid);
                self.kinds.extend(kinds);
                found.extend(findings);
                if found.iter().any(Finding::is_blocker) {
                    return Err(Stopped::blocked(found));
                }
                self.findings = found;
                Ok(())
            }
            other => Err(self.lost_track(&other, "joined")),
        }
    }

    /// Prepares a guest whose box is the host's, in a lifeboat: its state will be written to `state`.
    ///
    /// # Errors
    /// Why it cannot leave; it keeps running.
    pub fn fill_home(&mut self, state: OwnedFd) -> Result<(), Stopped> {
        self.greet()?;
        self.ask_to_join()?;
        let lent = Lent {
            value: Value::Null,
            fds: vec![(HOME_FD.to_owned(), state)],
        };
        let answer = self.ask(&LeavingRequest::Prepare {}, &lent, self.limits.prepare)?;
        match answer.message {
            LeavingReply::Prepared { .. } => Ok(()),
            other => Err(self.lost_track(&other, "prepared")),
        }
    }
}

impl<B: Boxes> Member for RemoteLeaving<B> {
    fn name(&self) -> &str {
        &self.name
    }

    fn kinds(&self) -> BTreeSet<Kind> {
        self.kinds.clone()
    }

    fn preflight(&mut self) -> Result<(), Stopped> {
        self.greet()?;
        if !self.boxes.is_free(&self.join.box_name).unwrap_or(true) {
            return Err(Stopped::blocked(vec![box_in_the_way(&self.join.box_name)]));
        }
        self.ask_to_join()
    }
    fn prepare(&mut self) -> Result<(), Stopped> {
        self.fill().map(drop)
    }

    fn quiesce(&mut self) -> Result<(), Stopped> {
        // The same limit as for `pause`: a VMM that is late reports the cause itself.
        let limit = self.limits.pause.saturating_add(self.limits.save);
        let answer = self.ask(&LeavingRequest::Quiesce {}, &Lent::default(), limit);
        match self.cleaned_up(answer)?.message {
            LeavingReply::Quiet {} => Ok(()),
            other => Err(self.lost_track(&other, "quiet")),
        }
    }

    fn pause(&mut self) -> Result<(), Stopped> {
        self.stop().map(drop)
    }

    /// Bounded by the limit of a pause, so that a VMM that hangs delays nobody.
    fn set_down(&mut self) -> Result<(), String> {
        let limit = self.limits.pause;
        let answer = self.ask(&LeavingRequest::SetDown {}, &Lent::default(), limit);
        match answer.map_err(|stopped| stopped.message)?.message {
            LeavingReply::Down {} => Ok(()),
            other => Err(self.lost_track(&other, "down").message),
        }
    }

    /// A VMM that waits for the jump stays silent unless it has to report something.
    fn objection(&mut self) -> Option<Objection> {
        let error = match self.connection.as_mut().ok()?.has_something() {
            Ok(false) => return None,
            Ok(true) => return Some(Objection::Cancelled),
            Err(error) => error,
        };
        let (name, who) = (&self.name, &self.process);
        let what = match (self.process.is_dead(&error), error) {
            // Whoever takes the guest out of its box finds it complete.
            (Some(true), _) => return None,
            (Some(false), ChannelError::Gone) => "closed its connection but is alive".to_owned(),
            (_, error) => Chain(&error).to_string(),
        };
        let why = format!("{name}: its VMM{who}: {what}");
        Some(Objection::Trouble(why))
    }

    fn roll_back(&mut self) -> Stopped {
        self.undo()
    }

    fn look_again(&mut self) -> Option<Stopped> {
        Self::look_again(self)
    }

    fn hand_over(&mut self) -> Result<(), Stopped> {
        match self.let_go() {
            // It is gone, as intended.
            Err(stopped) if stopped.status == ExitStatus::WaitsInBox => return Ok(()),
            // It refuses: nobody would have the guest.
            Err(refused) if refused.status == ExitStatus::NothingChanged => {
                let end = self.undo();
                return Err(Stopped {
                    message: format!("{}; {}", refused.message, end.message),
                    error: Some(refused.message),
                    ..end
                });
            }
            let_go => let_go?,
        };
        // Whoever takes over the guest must find its old VMM gone.
        self.wait_for_end();
        Ok(())
    }
}
