//! How devices come to stand still with their guest, and who waits for what meanwhile.
//!
//! | stage | vCPUs | a device |
//! |---|---|---|
//! | [`Working`](Stage::Working) | run | takes requests and answers them |
//! | [`Draining`](Stage::Draining) | run | takes no more; answers what it has taken |
//! | [`Parked`](Stage::Parked) | stand still | does nothing; has nothing in flight |
//!
//! `quiesce` leads from the first to the second, and `drain` waits, within a limit, until nothing is in
//! flight. Only then do the vCPUs stop, and `park` leads to the third, for which nothing is waited for
//! any more. `unpark` leads back from both. So a slow host costs the guest slow requests, as it does
//! anyway, and no time in which it stands still.

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Working,
    Draining,
    Parked,
}
