//! Coordinator and members over real sockets, with boxes in memory.

mod fleet;
mod handover;
mod resume;
mod stopped;
mod world;
