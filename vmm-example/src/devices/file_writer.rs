//! A file for a guest's output. A thread writes to it: a write takes as long as the disk does, and neither a
//! vCPU nor the holder of a device's lock may wait for that.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::sandbox;

/// See the module's documentation. The thread ends with its last piece.
#[derive(Debug)]
pub(crate) struct FileWriter {
    pieces: Sender<Vec<u8>>,
}

impl FileWriter {
    /// The thread calls `over` with the part of each piece that the file did not accept. Waits until it has narrowed
    /// its system calls: the kernel compiles the filter, which is not to fall into the time in which a guest stands
    /// still.
    pub(crate) fn start(file: File, over: impl Fn(Vec<u8>) + Send + 'static) -> io::Result<Self> {
        let (pieces, todo) = mpsc::channel();
        let (beginning, begin) = mpsc::channel::<Infallible>();
        let builder = thread::Builder::new().name("output".into());
        builder.spawn(move || {
            sandbox::confine(sandbox::Thread::Device);
            drop(beginning);
            while let Ok(piece) = todo.recv() {
                over(write(&file, piece));
            }
        })?;
        // Fails when the other end is dropped.
        let _ = begin.recv();
        Ok(Self { pieces })
    }

    /// Makes the thread write a piece.
    pub(crate) fn write(&self, piece: Vec<u8>) {
        // The thread waits for nothing else.
        let _ = self.pieces.send(piece);
    }
}

/// Writes what the file accepts, and returns the rest.
fn write(mut file: &File, mut piece: Vec<u8>) -> Vec<u8> {
    let mut done = 0;
    while done < piece.len() {
        match file.write(&piece[done..]) {
            Ok(count @ 1..) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Full, or nobody reads it.
            Ok(0) | Err(_) => break,
        }
    }
    piece.drain(..done);
    piece
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;

    #[test]
    fn what_a_file_does_not_take_comes_back() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let (sender, receiver) = mpsc::channel();
        let writer = FileWriter::start(OwnedFd::from(writer).into(), move |rest: Vec<u8>| {
            sender.send(rest.len()).unwrap();
        })
        .unwrap();
        writer.write(b"short".to_vec());
        assert_eq!(receiver.recv(), Ok(0));
        writer.write(vec![7; 1 << 21]);
        let rest = receiver.recv().unwrap();
        assert!(rest > 0 && rest < 1 << 21, "{rest}");
        drop(writer);
        let mut got = Vec::new();
        reader.read_to_end(&mut got).unwrap();
        assert_eq!(
            (&got[..5], got.len()),
            (&b"short"[..], 5 + (1 << 21) - rest)
        );
    }
}
