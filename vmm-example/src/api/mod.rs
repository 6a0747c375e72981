//! Talking to a running VMM over a Unix socket.

mod client;
mod exit;
pub(crate) mod protocol;
mod server;

pub(crate) use client::Client;
pub(crate) use exit::Exit;
pub(crate) use server::{Server, Service};
