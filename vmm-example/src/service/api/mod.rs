//! Talking to a running VMM over a Unix socket.

mod client;
mod clients;
mod exit;
pub(crate) mod peer;
pub(crate) mod protocol;
mod rights;
mod server;
mod sockets;

pub(crate) use client::{Client, ClientError};
pub(crate) use exit::Exit;
pub(crate) use rights::Rights;
pub(crate) use server::{Server, Service};
pub(crate) use sockets::{ApiPaths, Servers};
