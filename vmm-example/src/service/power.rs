//! Ends a guest: first by its power button, and after a timeout by cutting its power.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::event_loop::EndSignal;
use crate::guest::vcpu::GuestEnd;

/// The default time for a guest to switch itself off.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(30);

/// Cuts the guest's power when its time is over.
#[derive(Clone, Debug)]
pub(crate) struct PowerTimer {
    timer: Arc<OwnedFd>,
    end: EndSignal,
}

impl PowerTimer {
    pub(crate) fn new(end: &EndSignal) -> std::io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            timer: Arc::new(timerfd_create(TimerfdClockId::Boottime, flags)?),
            end: end.clone(),
        })
    }

    /// Sets the remaining time, replacing any previous one.
    pub(crate) fn set(&self, limit: Duration) {
        let zero = Timespec::default();
        let value = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let spec = Itimerspec {
            it_interval: zero,
            it_value: value,
        };
        if value == zero || timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).is_err()
        {
            self.end.send(GuestEnd::Stopped);
        }
    }
}

impl MutEventSubscriber for PowerTimer {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        let mut times = [0; 8];
        if rustix::io::read(&self.timer, &mut times).is_ok() {
            self.end.send(GuestEnd::Stopped);
        }
    }

    fn init(&mut self, ops: &mut EventOps) {
        let fd = self.timer.as_raw_fd();
        let _ = ops.add(Events::with_data_raw(fd, 0, EventSet::IN));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::event_loop;

    #[test]
    fn power_is_cut_at_once_or_when_the_time_is_over() {
        for limit in [Duration::ZERO, Duration::from_millis(1)] {
            let end = EndSignal::new().unwrap();
            let timer = PowerTimer::new(&end).unwrap();
            timer.set(limit);
            let ended = event_loop::run(&end, vec![Box::new(timer)], Some);
            assert_eq!(ended.unwrap(), GuestEnd::Stopped);
        }
    }
}
