//! What a process that was started for it answers.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vmm_fdbox::Deadline;

/// The maximum length of an answer in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Everything that arrives before the other end is closed.
///
/// # Errors
/// TimedOut or WouldBlock after the deadline.
pub(super) fn hear(answer: UnixStream, deadline: Deadline) -> io::Result<String> {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    let mut answer = answer.take(MAX_ANSWER);
    loop {
        let left = deadline.left().max(Duration::from_millis(1));
        answer.get_ref().set_read_timeout(Some(left))?;
        match answer.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(text).map_err(io::Error::other)
}
