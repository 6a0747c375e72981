//! The member's side of an update that a coordinator drives: what a VMM answers.
//!
//! A coordinator ([`coordinator`](crate::coordinator)) has the privileges: it creates boxes, loads
//! the next kernel and jumps. A VMM has a socket to it and implements one trait for each role:
//!
//! - [`LeavingVmm`], if it has a guest: [`serve_leaving`];
//! - [`ArrivingVmm`], if it is to receive one: [`serve_arriving`].
//!
//! ```text
//! coordinator        leaving VMM                      arriving VMM
//!   hello, join   ─▶  preflight
//!   hello, arrive ─▶                                    opens what it needs
//!   prepare, box  ─▶  puts and seals, lends
//!   prebuild      ─▶                                    builds everything but the state
//!   pause         ─▶  stops the guest, writes its state
//!   restore       ─▶                                    reads the state
//!   commit        ─▶                                    takes the state out: it has the guest
//!   hand-over     ─▶  lends the rest, ends
//!   adopt         ─▶                                    takes the rest
//! ```
//!
//! With a kexec the left half ends after `pause`, and the right one begins in the next kernel. When
//! the socket closes, the leaving VMM continues its guest, unless somebody has taken the state out
//! of the box; an arriving one that has not been told to commit ends without the guest. Lines are
//! JSON, see docs/member-protocol.md.

mod arriving;
mod channel;
mod down;
mod leaving;
mod leaving_vmm;
mod lent;
mod line;
mod wire;

pub use arriving::{Adoption, Arrived, ArrivingVmm, serve_arriving, serve_arriving_from};
pub use channel::{Channel, ChannelError, Heard, MAX_FDS, MAX_LINE_BYTES, Woken};
pub use leaving::{serve_leaving, serve_leaving_into};
pub use leaving_vmm::{Leaving, LeavingVmm, Left, OnEvent};
pub use lent::Lent;
pub use serde_json::Value;
pub use wire::{Arrive, BOX_FD, Failed, Join, LimitsMs, Module, VERSION};

pub(crate) use wire::{
    ArrivingReply, ArrivingRequest, Greeting, HOME_FD, LeavingReply, LeavingRequest, name_of,
};
