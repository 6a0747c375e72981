//! A running guest, the requests it serves, and its history.

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
