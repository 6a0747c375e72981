//! The boat's CPUs, which it gets as guests arrive: until then the host has them.
//!
//! Taken offline one by one, lent to the boat at once, and taken online when there is no boat any more. A CPU that the
//! boat has not brought up in time stays its own until then.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Boat, BoatError, online_cpus, set_online};

/// How long the boat may take to bring up CPUs.
const LEND_LIMIT: Duration = Duration::from_secs(60);

/// Lends CPUs to the boat of a [`LifeboatHost`](super::LifeboatHost). Clones share them.
#[derive(Debug, Clone)]
pub struct CpuLender(Arc<Mutex<Lent>>);

#[derive(Debug)]
struct Lent {
    cpus: Vec<u32>,
    /// How many guests are expected; 1 if all CPUs are lent at once.
    guests: usize,
    /// How many of them have been waited for.
    arrived: usize,
    /// How many of the CPUs the boat has, from the first on.
    lent: usize,
    /// Those that were taken offline.
    taken: Vec<u32>,
}

impl CpuLender {
    pub(super) fn new(cpus: &[u32], guests: usize) -> Self {
        Self(Arc::new(Mutex::new(Lent {
            cpus: cpus.to_vec(),
            guests,
            arrived: 0,
            lent: 0,
            taken: Vec::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Lent> {
        // A panic in another thread is no reason to keep the CPUs.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes those offline that the boat starts with, and returns how many these are; 0: all, which a module that knows
    /// no [`Boat::lend`] accepts, too.
    pub(super) fn take_first(&self, at_once: bool) -> Result<u32, BoatError> {
        let mut lent = self.lock();
        if at_once {
            lent.guests = 1;
        }
        let first = lent.share(1);
        lent.take_until(first)?;
        match first == lent.cpus.len() {
            true => Ok(0),
            false => Ok(u32::try_from(first).unwrap_or(u32::MAX)),
        }
    }

    /// Lends those that the boat is to have when the next guest arrives.
    ///
    /// # Errors
    /// [`BoatError`]: a CPU does not go offline, or the boat does not bring it up.
    pub fn lend_for_next(&self) -> Result<(), BoatError> {
        let mut lent = self.lock();
        lent.arrived += 1;
        let share = lent.share(lent.arrived);
        if share <= lent.lent {
            return Ok(());
        }
        lent.take_until(share)?;
        let count = u32::try_from(share).unwrap_or(u32::MAX);
        Boat::open()?.lend(count, LEND_LIMIT)
    }

    /// Takes all of them online again. There is no boat any more.
    pub(super) fn give_back(&self) -> Result<(), BoatError> {
        let mut lent = self.lock();
        (lent.lent, lent.arrived) = (0, 0);
        lent.taken
            .drain(..)
            .try_for_each(|cpu| set_online(cpu, true))
    }
}

impl Lent {
    /// How many CPUs the boat has with so many guests.
    fn share(&self, guests: usize) -> usize {
        let all = self.cpus.len();
        (all * guests).div_ceil(self.guests.max(1)).min(all)
    }

    fn take_until(&mut self, share: usize) -> Result<(), BoatError> {
        let online = online_cpus();
        for cpu in &self.cpus[self.lent..share] {
            if online.contains(cpu) {
                set_online(*cpu, false)?;
                self.taken.push(*cpu);
            }
        }
        self.lent = share;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(cpus: usize, guests: usize) -> Vec<usize> {
        let cpus: Vec<_> = (1..=cpus as u32).collect();
        let lender = CpuLender::new(&cpus, guests);
        let lent = lender.lock();
        (1..=guests).map(|guest| lent.share(guest)).collect()
    }

    #[test]
    fn cpus_follow_the_guests() {
        assert_eq!(shares(2, 2), [1, 2]);
        assert_eq!(shares(1, 3), [1, 1, 1]);
        assert_eq!(shares(4, 1), [4]);
        assert_eq!(shares(3, 2), [2, 3]);
        assert_eq!(shares(8, 3), [3, 6, 8]);
        assert_eq!(shares(0, 1), [0]);
    }

    #[test]
    fn a_start_with_all_cpus_names_no_number() {
        // No CPU of this machine.
        let cpus = [1_000_000, 1_000_001];
        let first = |guests, at_once| CpuLender::new(&cpus, guests).take_first(at_once).unwrap();
        assert_eq!(first(2, false), 1);
        assert_eq!(first(2, true), 0);
        assert_eq!(first(1, false), 0);
    }
}
