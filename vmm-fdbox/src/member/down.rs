//! A guest that was stopped before the kernel ends.

use super::line::{Line, Next};
use super::wire::{LeavingReply, LeavingRequest};
use crate::update::CancelFlag;

/// Keeps the guest stopped until the kernel ends, or the coordinator says so or goes away.
pub(super) fn stay_down(line: &Line<LeavingRequest>, mut cancel: Option<CancelFlag>) {
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
