//! The requests of a disk that are in flight: taken from the ring and not answered yet.
//!
//! There are at most [`MAX_REQUESTS`], with [`MAX_BYTES`] of data. A request that is larger than a
//! job, or that clears a range, is in flight alone: it is carried out in parts, and if the device
//! is to stop, it goes back to the ring between two of them.

use super::super::counters::Counters;
use super::super::ring::{BURST, Ring, RingError};
use super::backend::{Backend, Done, Job, MAX_JOBS, Token};
use super::buffer::Pool;
use super::request::{Ask, Geometry, Request, Status, give_id, scatter};
use super::taken::Taken;

/// The maximum number of requests.
pub(super) const MAX_REQUESTS: usize = 32;
/// The maximum size of their data.
pub(super) const MAX_BYTES: u64 = 8 << 20;
/// The maximum size of a job.
pub(super) const MAX_JOB: u64 = 1 << 20;

/// The constant properties of a disk.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) geometry: Geometry,
    pub(super) id: String,
    /// The driver does not flush: writes must be safe when they are answered (5.2.6.2).
    pub(super) write_through: bool,
}

/// Why no more requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    /// There is no space for the next one.
    Full,
    /// There is none, or others have their turn first.
    Over,
}

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Flight {
    backend: Box<dyn Backend>,
    taken: [Option<Taken>; MAX_REQUESTS],
    jobs: usize,
    bytes: u64,
    pool: Pool,
    /// Whether the request in flight must be alone.
    is_alone: bool,
}

impl Flight {
    pub(super) fn new(backend: Box<dyn Backend>) -> Self {
        Self {
            backend,
            taken: [const { None }; MAX_REQUESTS],
            jobs: 0,
            bytes: 0,
            pool: Pool::default(),
            is_alone: false,
        }
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    pub(super) fn start(&mut self) -> std::io::Result<()> {
        self.backend.start()
    }

    /// The number of requests.
    pub(super) fn count(&self) -> usize {
        self.taken.iter().flatten().count()
    }

    /// Nobody waits for the answers any more. No request is taken until the disk has finished
    /// these: they could overtake it.
    pub(super) fn abandon(&mut self) {
        for taken in self.taken.iter_mut().flatten() {
            taken.is_stale = true;
        }
    }

    /// Takes as many requests as there is space for.
    pub(super) fn serve(
        &mut self,
        ring: &mut Ring<'_, '_>,
        disk: &Disk,
        counters: &Counters,
    ) -> Result<(), RingError> {
        let mut left = BURST;
        loop {
            let taken = self.take_all(ring, disk, counters, &mut left);
            self.backend.submit();
            // What was in the page cache is done by now, and has no event.
            let before = self.count();
            self.settle(Some(ring), disk, counters)?;
            if taken? == Taking::Over || self.count() == before {
                return Ok(());
            }
        }
    }

    fn take_all(
        &mut self,
        ring: &mut Ring<'_, '_>,
        disk: &Disk,
        counters: &Counters,
        left: &mut usize,
    ) -> Result<Taking, RingError> {
        while *left > 0 {
            if ring.is_stopped() {
                return Ok(Taking::Over);
            }
            if !self.has_room() {
                return Ok(Taking::Full);
            }
            *left -= 1;
            let Some(chain) = ring.pop_chain_or_ask()? else {
                return Ok(Taking::Over);
            };
            let request = Request::parse(chain, disk.geometry, ring.memory())?;
            let ask = match request.ask {
                Ok(Ask::Id) => {
                    let written = give_id(ring.memory(), &disk.id, &request.data)?;
                    answer(ring, &request, Status::Ok, written)?;
                    continue;
                }
                Ok(ask) if ask.is_nothing() => {
                    answer(ring, &request, Status::Ok, 0)?;
                    continue;
                }
                Ok(ask) => ask,
                Err(status) => {
                    counters.error();
                    answer(ring, &request, status, 0)?;
                    continue;
                }
            };
            if !self.fits(ask) {
                ring.unpop();
                return Ok(Taking::Full);
            }
            self.take(request, ask, ring, disk)?;
        }
        ring.again();
        Ok(Taking::Over)
    }

    fn has_room(&self) -> bool {
        let stale = |taken: &Taken| taken.is_stale;
        !self.is_alone
            && self.taken.iter().any(Option::is_none)
            && !self.taken.iter().flatten().any(stale)
    }

    fn fits(&self, ask: Ask) -> bool {
        match is_alone(ask) {
            true => self.count() == 0,
            false => self.bytes + ask.data_len() <= MAX_BYTES,
        }
    }

    fn take(
        &mut self,
        request: Request,
        ask: Ask,
        ring: &Ring<'_, '_>,
        disk: &Disk,
    ) -> Result<(), RingError> {
        let Some(place) = self.taken.iter().position(Option::is_none) else {
            return Ok(());
        };
        self.is_alone = is_alone(ask);
        self.taken[place] = Some(Taken::new(request, ask));
        let begun = self.begin(place, ring, disk);
        if begun.is_err() {
            self.abandon();
            self.forget(place);
        }
        begun
    }

    /// Begins as many jobs of a request as there is space for.
    fn begin(&mut self, place: usize, ring: &Ring<'_, '_>, disk: &Disk) -> Result<(), RingError> {
        let Some(taken) = &mut self.taken[place] else {
            return Ok(());
        };
        while taken.goes_on() && self.jobs < MAX_JOBS && self.bytes < MAX_BYTES {
            let offset = taken.next;
            let len = (taken.end() - offset).min(MAX_JOB);
            let (at, op, buffer) =
                taken.job(len, &mut self.pool, ring.memory(), disk.write_through)?;
            taken.next += len;
            taken.jobs += 1;
            self.jobs += 1;
            self.bytes += buffer.len() as u64;
            let token = Token {
                request: place,
                offset,
            };
            self.backend.begin(Job {
                token,
                op,
                at,
                buffer,
            });
        }
        Ok(())
    }

    /// Answers requests whose last job is finished, and continues others. Without a ring nobody
    /// waits for answers.
    pub(super) fn settle(
        &mut self,
        mut ring: Option<&mut Ring<'_, '_>>,
        disk: &Disk,
        counters: &Counters,
    ) -> Result<(), RingError> {
        let mut result = Ok(());
        loop {
            if ring.is_none() {
                self.abandon();
            }
            let Some(done) = self.backend.finished() else {
                break;
            };
            if let Err(error) = self.finish(done, ring.as_deref_mut(), disk, counters) {
                // The ring is broken: the other requests in flight cannot be answered.
                (result, ring) = (Err(error), None);
            }
        }
        self.backend.submit();
        match ring {
            Some(ring) => result.and_then(|()| ring.signal()),
            None => result,
        }
    }

    fn finish(
        &mut self,
        done: Done,
        ring: Option<&mut Ring<'_, '_>>,
        disk: &Disk,
        counters: &Counters,
    ) -> Result<(), RingError> {
        let place = done.token.request;
        let Some(Some(taken)) = self.taken.get_mut(place) else {
            return Ok(());
        };
        self.jobs -= 1;
        self.bytes -= done.buffer.len() as u64;
        taken.jobs -= 1;
        let mut read = Ok(0);
        match (&done.result, taken.ask, &ring) {
            (Ok(()), Ask::Read { .. }, Some(ring)) if !taken.is_stale => {
                let (data, offset) = (&taken.request.data, done.token.offset);
                read = scatter(ring.memory(), data, offset, done.buffer.bytes());
            }
            (Ok(()), ..) => {}
            (Err(error), ..) => taken.fail(error),
        }
        self.pool.give(done.buffer);
        read?;
        match ring {
            Some(ring) => self.after(place, ring, disk, counters),
            None => {
                self.forget(place);
                Ok(())
            }
        }
    }

    /// What happens to a request when one of its jobs is finished.
    fn after(
        &mut self,
        place: usize,
        ring: &mut Ring<'_, '_>,
        disk: &Disk,
        counters: &Counters,
    ) -> Result<(), RingError> {
        let Some(taken) = &self.taken[place] else {
            return Ok(());
        };
        let is_over = taken.jobs == 0;
        if taken.goes_on() {
            if !ring.is_stopped() {
                return self.begin(place, ring, disk);
            }
            if is_over {
                // It was taken last: all of it is done again later.
                ring.unpop();
                self.forget(place);
            }
            return Ok(());
        }
        if !is_over || taken.is_stale {
            self.forget(place);
            return Ok(());
        }
        let moved = taken.ask.data_len();
        let written = match (taken.ask, taken.status) {
            (Ask::Read { .. }, Status::Ok) => moved as usize,
            _ => 0,
        };
        match (taken.status, taken.ask) {
            (Status::Ok, Ask::Zero { .. }) => {}
            (Status::Ok, _) => counters.bytes(moved as usize),
            _ => counters.error(),
        }
        let answered = answer(ring, &taken.request, taken.status, written);
        self.forget(place);
        answered
    }

    /// Frees an index, unless it has jobs.
    fn forget(&mut self, place: usize) {
        if self.taken[place]
            .as_ref()
            .is_some_and(|taken| taken.jobs == 0)
        {
            self.taken[place] = None;
            self.is_alone = false;
        }
    }
}

fn is_alone(ask: Ask) -> bool {
    matches!(ask, Ask::Discard { .. } | Ask::WriteZeroes { .. }) || ask.data_len() > MAX_JOB
}

/// Answers a request that has this many bytes of data.
fn answer(
    ring: &mut Ring<'_, '_>,
    request: &Request,
    status: Status,
    written: usize,
) -> Result<(), RingError> {
    request.tell(status, ring.memory())?;
    ring.push_head(request.head, written + 1)
}
