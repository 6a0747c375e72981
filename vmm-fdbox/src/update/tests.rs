//! The update against fakes: every way forward, and every way back.

mod fleet;
mod handover;
mod rollback;
mod takeover;
mod world;
