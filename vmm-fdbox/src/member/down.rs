//! A guest that was set down before the kernel ends.

use super::line::{Line, Next};
use super::wire::{LeavingReply, LeavingRequest};
use crate::update::CancelFlag;

/// The guest stands still until the kernel is gone, or the coordinator's word or end.
pub(super) fn stay_down(line: &Line<LeavingRequest>, mut cancel: Option<CancelFlag>) {
    loop {
        match line.next(cancel.as_ref(), |order| {
            *order == LeavingRequest::SetDown {}
        }) {
            // Saying it twice changes nothing.
            Next::Request(_) => line.say(&LeavingReply::Down {}),
            Next::CancelAsked => {
                cancel = None;
                line.say(&LeavingReply::CancelAsked {});
            }
            Next::Undo | Next::Gone => return,
        }
    }
}
