//! The update with fakes: every way forward, and every way back.

mod fleet;
mod fleet_world;
mod handover;
mod homecoming;
mod leftovers;
mod next_kernel;
mod rollback;
mod session;
mod takeover;
mod world;
