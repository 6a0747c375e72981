//! The state memfd: timeline and frame in memory of a fixed size.
//!
//! ```text
//! 0     timeline, one page (see `timeline`)
//! 4096  frame (see `frame`), up to the end
//! ```
//!
//! Its size never changes and all its pages are allocated from the start: it is sealed in its box
//! while the guest runs, and written through a mapping after the guest has stopped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;

use crate::frame::{
    Frame, FrameError, FrameWriter, HEADER_BYTES, MAX_FRAME_BYTES, announced_bytes,
};
use crate::sys::SharedMapping;
use crate::timeline::{TIMELINE_BYTES, Timeline, TimelineError};

/// The size of the state memfd is a multiple of this many bytes.
const GRAIN_BYTES: usize = 4096;

/// Why the state memfd cannot be created, written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A system call failed.
    #[error("Cannot {what} the state memfd: {errno}")]
    System {
        /// The operation.
        what: &'static str,
        /// The reason.
        errno: Errno,
    },
    /// A size that a state memfd cannot have.
    #[error(
        "State memfd of {bytes} bytes: it has to be more than {TIMELINE_BYTES} and at most {MAX_STATE_BYTES}"
    )]
    BadSize {
        /// The size.
        bytes: u64,
    },
    /// An error of the frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// The largest state memfd in bytes.
pub const MAX_STATE_BYTES: usize = TIMELINE_BYTES + MAX_FRAME_BYTES;

fn system(what: &'static str) -> impl FnOnce(Errno) -> StateError {
    move |errno| StateError::System { what, errno }
}

/// The state memfd in the host that is left: mapped, to be written last.
#[derive(Debug)]
pub struct StateFd {
    mapping: SharedMapping,
    /// Where frames are built before they are copied to the mapping.
    scratch: Vec<u8>,
    generation: u64,
}

impl StateFd {
    /// Creates a memfd with space for a timeline and a frame of `frame_capacity` bytes, maps it and
    /// allocates every page. The descriptor is for the box; the mapping stays when the descriptor
    /// is gone.
    ///
    /// # Errors
    /// [`StateError::BadSize`], or [`StateError::System`] such as ENOMEM.
    pub fn create(frame_capacity: usize) -> Result<(Self, OwnedFd), StateError> {
        let bytes = frame_capacity
            .checked_next_multiple_of(GRAIN_BYTES)
            .and_then(|frame| frame.checked_add(TIMELINE_BYTES))
            .filter(|bytes| (TIMELINE_BYTES + 1..=MAX_STATE_BYTES).contains(bytes))
            .ok_or(StateError::BadSize {
                bytes: frame_capacity as u64,
            })?;
        let fd =
            rustix::fs::memfd_create("vm-state", MemfdFlags::CLOEXEC).map_err(system("create"))?;
        rustix::fs::ftruncate(&fd, bytes as u64).map_err(system("size"))?;
        let mut mapping = SharedMapping::new(&fd, bytes).map_err(system("map"))?;
        let scratch = vec![0; bytes - TIMELINE_BYTES];
        // Writing once allocates every page before the box freezes its shape.
        mapping.write(TIMELINE_BYTES, &scratch);
        mapping.write(0, &[0; TIMELINE_BYTES]);
        Ok((
            Self {
                mapping,
                scratch,
                generation: 0,
            },
            fd,
        ))
    }

    /// Writes to the memfd of a state that was written before.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn reuse(fd: impl AsFd) -> Result<Self, StateError> {
        let bytes = size_of(fd.as_fd())?;
        Ok(Self {
            mapping: SharedMapping::new(fd, bytes).map_err(system("map"))?,
            scratch: vec![0; bytes - TIMELINE_BYTES],
            generation: 0,
        })
    }

    /// The size of the memfd in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.mapping.len()
    }

    /// Writes a frame: `fill` adds the sections. The header reaches the memfd last, so a reader
    /// never mistakes half a frame for a whole one. Returns the frame's length.
    ///
    /// # Errors
    /// Those of `fill`, or [`FrameError`]; the memfd then holds no frame.
    pub fn write_frame<E: From<FrameError>>(
        &mut self,
        producer: &str,
        fill: impl FnOnce(&mut FrameWriter<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        self.clear();
        self.generation += 1;
        let mut writer = FrameWriter::new(&mut self.scratch, producer)?.generation(self.generation);
        fill(&mut writer)?;
        let bytes = writer.finish()?;
        let (header, body) = self.scratch[..bytes].split_at(HEADER_BYTES);
        self.mapping.write(TIMELINE_BYTES + HEADER_BYTES, body);
        self.mapping.write(TIMELINE_BYTES, header);
        Ok(bytes)
    }

    /// Erases the frame, so that readers of the memfd find none.
    pub fn clear(&mut self) {
        self.mapping.write(TIMELINE_BYTES, &[0; HEADER_BYTES]);
    }

    /// Writes the timeline, whether or not there is a frame.
    pub fn write_timeline(&mut self, timeline: &Timeline) {
        self.mapping.write(0, &timeline.encode());
    }
}

/// The contents of a state memfd.
#[derive(Debug)]
#[non_exhaustive]
pub struct SavedState {
    /// The frame, verified.
    pub frame: Frame<Vec<u8>>,
    /// The timeline. An update works without one; only its report suffers.
    pub timeline: Result<Timeline, TimelineError>,
}

impl SavedState {
    /// Reads and verifies the state memfd, in the host that takes over.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be read or its frame is incomplete or corrupt. The descriptor's
    /// content and position are unchanged.
    pub fn read(fd: impl AsFd) -> Result<Self, StateError> {
        let fd = fd.as_fd();
        let size = size_of(fd)?;
        let timeline = read_at(fd, 0, TIMELINE_BYTES)?;
        // The memfd is much larger than a frame, and a guest is waiting.
        let room = size - TIMELINE_BYTES;
        let header = read_at(fd, TIMELINE_BYTES, room.min(HEADER_BYTES))?;
        let frame = read_at(fd, TIMELINE_BYTES, announced_bytes(&header).min(room))?;
        Ok(Self {
            frame: Frame::parse(frame)?,
            timeline: Timeline::decode(&timeline),
        })
    }
}

/// Erases the frame in a state memfd.
pub(crate) fn wipe(fd: impl AsFd) -> Result<(), StateError> {
    let zeros = [0; HEADER_BYTES];
    match rustix::io::pwrite(fd, &zeros, TIMELINE_BYTES as u64) {
        Ok(written) if written == zeros.len() => Ok(()),
        Ok(_) => Err(system("overwrite")(Errno::IO)),
        Err(errno) => Err(system("overwrite")(errno)),
    }
}

fn size_of(fd: BorrowedFd<'_>) -> Result<usize, StateError> {
    let stat = rustix::fs::fstat(fd).map_err(system("query"))?;
    let bytes = u64::try_from(stat.st_size).unwrap_or(0);
    usize::try_from(bytes)
        .ok()
        .filter(|size| (TIMELINE_BYTES + 1..=MAX_STATE_BYTES).contains(size))
        .ok_or(StateError::BadSize { bytes })
}

fn read_at(fd: BorrowedFd<'_>, at: usize, size: usize) -> Result<Vec<u8>, StateError> {
    let mut content = vec![0; size];
    let mut done = 0;
    while done < size {
        let read = rustix::io::pread(fd, &mut content[done..], (at + done) as u64);
        match read {
            Ok(0) => {
                let bytes = (at + done) as u64;
                return Err(StateError::BadSize { bytes });
            }
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(system("read")(errno)),
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::frame::Need;
    use crate::timeline::phase;

    fn write(state: &mut StateFd, value: u32) -> Result<usize, FrameError> {
        state.write_frame("test 1", |frame| {
            frame.add("value", 1, Need::Required, &value)
        })
    }

    #[test]
    fn what_is_written_is_read() {
        let (mut state, fd) = StateFd::create(10_000).unwrap();
        assert_eq!(state.size(), 4096 + 12288);
        let mut timeline = Timeline::new(NonZeroU32::MIN);
        timeline.mark(phase::PAUSE, 5).unwrap();
        write(&mut state, 1).unwrap();
        state.write_timeline(&timeline);
        write(&mut state, 2).unwrap();
        drop(state);

        let saved = SavedState::read(&fd).unwrap();
        assert_eq!(saved.frame.read::<u32>("value").unwrap(), 2);
        assert_eq!(saved.frame.generation(), 2);
        assert_eq!(saved.timeline.unwrap(), timeline);
    }

    #[test]
    fn a_damaged_size_is_found() {
        let (mut state, fd) = StateFd::create(10_000).unwrap();
        write(&mut state, 1).unwrap();
        let frame_bytes_at = TIMELINE_BYTES as u64 + 96;
        for size in [0u64, 64, 129, 9_999, 1 << 40, u64::MAX] {
            rustix::io::pwrite(&fd, &size.to_le_bytes(), frame_bytes_at).unwrap();
            assert!(SavedState::read(&fd).is_err(), "{size}");
        }
    }

    #[test]
    fn a_state_never_written_is_empty() {
        let (_state, fd) = StateFd::create(4096).unwrap();
        let error = SavedState::read(&fd).unwrap_err();
        assert!(
            matches!(error, StateError::Frame(FrameError::Empty)),
            "{error}"
        );
    }

    #[test]
    fn a_frame_can_be_wiped() {
        let (mut state, fd) = StateFd::create(10_000).unwrap();
        write(&mut state, 1).unwrap();
        SavedState::read(&fd).unwrap();
        state.clear();
        assert!(matches!(
            SavedState::read(&fd).unwrap_err(),
            StateError::Frame(FrameError::Empty)
        ));
    }

    #[test]
    fn a_failed_write_leaves_no_frame() {
        let (mut state, fd) = StateFd::create(4096).unwrap();
        write(&mut state, 1).unwrap();
        let big = vec![0u8; 5000];
        let result: Result<usize, FrameError> = state.write_frame("test 1", |frame| {
            frame.add_bytes("big", 1, Need::Required, &big)
        });
        assert!(matches!(result, Err(FrameError::TooLarge { .. })));
        assert!(SavedState::read(&fd).is_err());
    }

    #[test]
    fn sizes_are_checked() {
        assert!(matches!(
            StateFd::create(0),
            Err(StateError::BadSize { .. })
        ));
        assert!(matches!(
            StateFd::create(usize::MAX),
            Err(StateError::BadSize { .. })
        ));
        let small = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        assert!(matches!(
            SavedState::read(&small),
            Err(StateError::BadSize { bytes: 0 })
        ));
    }
}
