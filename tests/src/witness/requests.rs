//! The writes to a disk: numbers are assigned in order, and completed in any order.

use std::collections::BTreeMap;

use crate::clocks::boottime_ns;

/// When a write was in flight, by CLOCK_BOOTTIME.
#[derive(Debug, Clone, Copy)]
struct Request {
    number: u64,
    begun_ns: u64,
    ended_ns: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// The last number assigned.
    begun: u64,
    /// The numbers in flight, and the time at which each began.
    in_flight: BTreeMap<u64, u64>,
    ended: Vec<Request>,
    finished: bool,
}

impl Requests {
    /// The number of a write that begins now; `None` if there are to be no more writes.
    pub(crate) fn begin(&mut self) -> Option<u64> {
        if self.finished {
            return None;
        }
        self.begun += 1;
        self.in_flight.insert(self.begun, boottime_ns());
        Some(self.begun)
    }

    /// Records that a write completed, and returns the number up to which all have.
    pub(crate) fn end(&mut self, number: u64) -> u64 {
        if let Some(begun_ns) = self.in_flight.remove(&number) {
            self.ended.push(Request {
                number,
                begun_ns,
                ended_ns: boottime_ns(),
            });
        }
        self.settled()
    }

    /// Ends the writes; returns whether they had not been ended before.
    pub(crate) fn finish(&mut self) -> bool {
        !std::mem::replace(&mut self.finished, true)
    }

    pub(crate) fn finished(&self) -> bool {
        self.finished
    }

    /// The last number assigned.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// The number up to which all writes have completed.
    pub(crate) fn settled(&self) -> u64 {
        let oldest = self.in_flight.keys().next();
        oldest.map_or(self.begun, |number| number - 1)
    }

    /// The writes that were in flight at a time and have completed since.
    pub(crate) fn in_flight_at(&self, at_ns: u64) -> Vec<u64> {
        let then = |request: &&Request| request.begun_ns < at_ns && at_ns < request.ended_ns;
        let found = self.ended.iter().filter(then);
        found.map(|request| request.number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_may_end_in_any_order() {
        let mut requests = Requests::default();
        assert_eq!((requests.begin(), requests.begin()), (Some(1), Some(2)));
        assert_eq!(requests.settled(), 0);
        let while_both = boottime_ns();
        assert_eq!(requests.end(2), 0, "the first is in flight");
        assert_eq!(requests.end(1), 2);
        assert_eq!(requests.begin(), Some(3));
        assert_eq!((requests.begun(), requests.settled()), (3, 2));
        assert_eq!(requests.in_flight_at(while_both), [2, 1]);
        assert!(requests.in_flight_at(0).is_empty());
        assert!(requests.in_flight_at(boottime_ns()).is_empty());
    }

    #[test]
    fn after_the_end_nothing_begins() {
        let mut requests = Requests::default();
        assert!(requests.finish());
        assert!(!requests.finish());
        assert_eq!(requests.begin(), None);
    }
}
