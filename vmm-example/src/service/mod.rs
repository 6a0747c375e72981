//! A running guest, what can be asked of it, and what happened to it.

pub(crate) mod api;
pub(crate) mod endpoints;
pub(crate) mod event_loop;
pub(crate) mod events;
pub(crate) mod history;
pub(crate) mod power;
pub(crate) mod report;
mod requests;
pub(crate) mod signals;
pub(crate) mod update_message;
pub(crate) mod vmm;
