//! How many descriptors a command may have open that talks to many VMMs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as this process may ask for: each VMM can have it hold some hundreds, and those are to be nobody else's
/// loss.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // It will do with what it has, for as long as that lasts.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_as_high_as_it_can_be() {
        raise_limit();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
    }
}
