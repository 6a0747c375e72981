//! A running guest, what can be asked of it, and what happened to it.

pub(crate) mod api;
pub(crate) mod chronicle;
pub(crate) mod event_loop;
pub(crate) mod events;
pub(crate) mod report;
pub(crate) mod vmm;
