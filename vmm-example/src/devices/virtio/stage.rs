//! How devices are stopped together with their guest, and who waits for what meanwhile.
//!
//! | stage | vCPUs | a device |
//! |---|---|---|
//! | [`Working`](Stage::Working) | run | takes requests and answers them |
//! | [`Draining`](Stage::Draining) | run | takes no more; answers those it has taken. Only of devices whose requests take time |
//! | [`Parked`](Stage::Parked) | are parked | does nothing; has nothing in flight |
//!
//! `quiesce` leads from the first to the second stage, and `drain` waits, within a limit, until
//! nothing is in flight. Only then do the vCPUs stop, and `park` leads to the third stage without
//! waiting for anything. `unpark` leads back from both. So a slow host makes the guest's requests
//! slow, as it does anyway, but does not lengthen the blackout.
//!
//! A device that answers each request at once, such as a network card, has nothing to drain. It
//! works until it is parked: the guest's drivers give up if a network card takes nothing for
//! seconds, while its disk, or that of another guest, drains.

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Working,
    Draining,
    Parked,
}
