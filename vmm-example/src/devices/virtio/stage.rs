//! How devices are stopped together with their guest, and who waits for what meanwhile.
//!
//! | stage | vCPUs | a device |
//! |---|---|---|
//! | [`Working`](Stage::Working) | run | takes requests and answers them |
//! | [`Draining`](Stage::Draining) | run | takes no more; answers those it has taken |
//! | [`Parked`](Stage::Parked) | are parked | does nothing; has nothing in flight |
//!
//! `quiesce` leads from the first to the second stage, and `drain` waits, within a limit, until
//! nothing is in flight. Only then do the vCPUs stop, and `park` leads to the third stage without
//! waiting for anything. `unpark` leads back from both. So a slow host makes the guest's requests
//! slow, as it does anyway, but does not lengthen the blackout.

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Working,
    Draining,
    Parked,
}
