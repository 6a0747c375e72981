//! The update against fakes: every way forward, and every way back.

mod handover;
mod rollback;
mod takeover;
mod world;
