//! The guest's end of the connection from outside: numbered data in both directions, until the end
//! is requested.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fdbox_lab::numbers::{Received, fill};
use fdbox_lab::witness::TcpIo;
use fdbox_lab::{interface, net};

use crate::lock;

/// The size of each piece sent, and the interval.
const PIECE_BYTES: usize = 256;
const PERIOD: Duration = Duration::from_millis(20);
/// The time limit for the other end to close the connection too.
const END_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(crate) struct Talk {
    listener: TcpListener,
    /// No more data is to be sent.
    ending: AtomicBool,
    done: Mutex<TcpIo>,
    /// Signalled when the connection has ended for any reason.
    ended: Condvar,
}

impl Talk {
    /// Sets up the network of guest `number` and listens.
    pub(crate) fn open(number: u8) -> Result<Self> {
        interface::configure("lo", Ipv4Addr::LOCALHOST).context("Set up the loopback")?;
        interface::configure(net::CARD, net::guest(number)).context("Set up the network card")?;
        interface::default_route(net::gateway(number)).context("Set the route")?;
        Ok(Self {
            listener: TcpListener::bind((net::guest(number), net::PORT)).context("Listen")?,
            ending: AtomicBool::new(false),
            done: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Serves the one connection. Connections without data do not count: the client may have given
    /// up while this guest was still booting.
    pub(crate) fn serve(&self, pace: u32) {
        let served = self.first_with_a_word().and_then(|(stream, word)| {
            std::thread::scope(|scope| {
                let sender = stream.try_clone()?;
                let sending = scope.spawn(move || self.send(&sender, PERIOD * pace));
                let received = self.receive(stream, &word);
                // Sending fails only if the connection does.
                let sent = sending.join().unwrap_or(Ok(()));
                received.and(sent)
            })
        });
        let mut done = lock(&self.done);
        match served {
            Ok(()) => done.ended = true,
            Err(error) => done.error = Some(error.to_string()),
        }
        self.ended.notify_all();
    }

    fn first_with_a_word(&self) -> io::Result<(TcpStream, Vec<u8>)> {
        let mut word = vec![0; PIECE_BYTES];
        loop {
            let (mut stream, _) = self.listener.accept()?;
            if let Ok(count @ 1..) = stream.read(&mut word) {
                stream.set_nodelay(true)?;
                word.truncate(count);
                return Ok((stream, word));
            }
        }
    }

    fn receive(&self, mut stream: TcpStream, word: &[u8]) -> io::Result<()> {
        let mut received = Received::default();
        let mut buffer = vec![0; 16 * PIECE_BYTES];
        let mut count = word.len();
        buffer[..count].copy_from_slice(word);
        while count > 0 {
            received.take(&buffer[..count]);
            {
                let mut done = lock(&self.done);
                done.received = received.bytes();
                done.lost = received.lost();
                done.repeated = received.repeated();
            }
            count = stream.read(&mut buffer)?;
        }
        Ok(())
    }

    fn send(&self, mut stream: &TcpStream, period: Duration) -> io::Result<()> {
        let mut sent = 0;
        let mut piece = [0; PIECE_BYTES];
        while !self.ending.load(Ordering::SeqCst) {
            fill(sent, &mut piece);
            stream.write_all(&piece)?;
            sent += piece.len() as u64;
            lock(&self.done).sent = sent;
            std::thread::sleep(period);
        }
        stream.shutdown(Shutdown::Write)
    }

    /// Closes the connection and waits until the other end has closed it, too.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        let deadline = Instant::now() + END_LIMIT;
        let mut done = lock(&self.done);
        while !done.ended && done.error.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            done = match self.ended.wait_timeout(done, left) {
                Ok((done, _)) => done,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    pub(crate) fn done(&self) -> TcpIo {
        lock(&self.done).clone()
    }
}
