//! A guest that was stopped before the kernel ends.

use std::time::Instant;

use super::leaving_vmm::{LeavingVmm, Left};
use super::line::{Line, Next};
use super::wire::{LeavingReply, LeavingRequest};
use crate::error::Chain;
use crate::update::{CancelFlag, ExitStatus, Stopped};

/// No update is in progress: the guest can be set down, and the coordinator may go away.
pub(super) fn idle<V: LeavingVmm>(line: &Line<LeavingRequest>, vmm: &mut V) -> Left {
    loop {
        match line.next(None, |order| *order == LeavingRequest::SetDown {}) {
            Next::Request(_) => {}
            Next::Undo => {
                line.refuse("There is nothing to roll back");
                continue;
            }
            Next::CancelAsked | Next::Gone => return Left::Here,
        }
        let began = Instant::now();
        let down = vmm.set_down();
        if let Err(error) = &down {
            line.say(&LeavingReply::Stopped(Stopped::untouched(
                Chain(&**error).to_string(),
            )));
            continue;
        }
        line.say(&LeavingReply::Down {});
        stay_down(line, vmm.down_cancel());
        let (status, message) = match vmm.stand_up() {
            Ok(()) => (ExitStatus::RolledBack, "Continues".to_owned()),
            Err(error) => {
                let why = Chain(&*error).to_string();
                (
                    ExitStatus::GuestLost,
                    format!("The guest cannot continue: {why}"),
                )
            }
        };
        let end = Stopped {
            status,
            cancelled: true,
            paused_ns: u64::try_from(began.elapsed().as_nanos()).ok(),
            ..Stopped::untouched(message)
        };
        line.say(&LeavingReply::Stopped(end.clone()));
        if status == ExitStatus::GuestLost {
            return Left::Lost(end);
        }
    }
}

/// Keeps the guest stopped until the kernel ends, or the coordinator says so or goes away.
fn stay_down(line: &Line<LeavingRequest>, mut cancel: Option<CancelFlag>) {
    loop {
        match line.next(cancel.as_ref(), |order| {
            *order == LeavingRequest::SetDown {}
        }) {
            // A repeated order changes nothing.
            Next::Request(_) => line.say(&LeavingReply::Down {}),
            Next::CancelAsked => {
                cancel = None;
                line.say(&LeavingReply::CancelAsked {});
            }
            Next::Undo | Next::Gone => return,
        }
    }
}
