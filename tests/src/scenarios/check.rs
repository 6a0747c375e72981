//! Assertions that report the actual value.

use std::fmt::Debug;

use anyhow::{Result, bail};
use rustix::io::Errno;

/// `what` must have failed with exactly `expected`.
pub(crate) fn fails<T>(what: &str, found: Result<T, Errno>, expected: Errno) -> Result<()> {
    match found {
        Ok(_) => bail!("{what}: succeeded, {expected:?} was expected"),
        Err(error) if error == expected => Ok(()),
        Err(error) => bail!("{what}: {error:?}, {expected:?} was expected"),
    }
}

/// `what` must be `expected`.
pub(crate) fn equal<T: PartialEq + Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found != expected {
        bail!("{what} is {found:?}, not {expected:?}");
    }
    Ok(())
}
