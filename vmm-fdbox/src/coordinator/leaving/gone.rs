//! A guest whose VMM cannot be asked any more: what becomes of it.

use rustix::io::Errno;

use super::super::boxes::{Boxes, WholeGuest};
use super::RemoteLeaving;
use crate::error::Chain;
use crate::member::ChannelError;
use crate::update::{ExitStatus, Stopped};

impl<B: Boxes> RemoteLeaving<B> {
    /// Closes a connection that can no longer be used, and returns what happens to the guest.
    pub(super) fn give_up(&mut self, error: &ChannelError) -> Stopped {
        let why = Chain(error).to_string();
        let who = &self.process;
        self.connection = Err(why.clone());
        let (status, message) = match self.process.is_dead(error) {
            Some(false) => (
                ExitStatus::RolledBack,
                format!("{why}{who}; it is alive, and rolls its guest back by itself"),
            ),
            // Even if its process is unknown.
            _ if self.waits_in_box() => {
                let name = &self.join.box_name;
                (
                    ExitStatus::WaitsInBox,
                    format!("{why}{who}; the guest waits in box {name}: resume it"),
                )
            }
            _ => (ExitStatus::GuestLost, format!("Guest lost: {why}{who}")),
        };
        Stopped {
            status,
            error: Some(why),
            ..Stopped::untouched(message)
        }
    }

    /// Looks again for a guest whose VMM died while it wrote the state: it may have completed it.
    pub(in super::super) fn look_again(&mut self) -> Option<Stopped> {
        let name = self.join.box_name.clone();
        let is_dead = self.process.is_dead(&ChannelError::Gone) == Some(true);
        if !std::mem::take(&mut self.may_be_saved) || !is_dead {
            return None;
        }
        let why = self.connection.as_ref().err()?;
        let then = match self.boxes.find_whole_guest(&name) {
            Ok(WholeGuest::None) => return None,
            Ok(WholeGuest::Waits) => {
                self.saved = true;
                format!("the guest waits in box {name}: resume it")
            }
            Ok(WholeGuest::WaitsInOpenBox(error)) => {
                self.saved = true;
                format!(
                    "the guest waits in box {name}, and a kexec would lose it ({error}): \
                     resume it in this kernel"
                )
            }
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NODEV | Errno::PIPE) => {
                return None;
            }
            Err(error) => format!(
                "whether the guest waits in box {name} is not known ({error}): try to resume it"
            ),
        };
        let who = &self.process;
        Some(Stopped {
            status: ExitStatus::WaitsInBox,
            error: Some(why.clone()),
            ..Stopped::untouched(format!("{why}{who}; {then}"))
        })
    }

    /// Whether the whole guest is in the box, for anyone to take.
    pub(in super::super) fn waits_in_box(&self) -> bool {
        self.saved && self.boxes.has_guest(&self.join.box_name).unwrap_or(false)
    }
}
