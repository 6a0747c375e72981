//! The file that the console leads to.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{self, Receiver};

use super::super::wake::Wake;
use crate::devices::file_writer::FileWriter;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FileEnd {
    file: File,
    wake: Wake,
    writer: Option<(FileWriter, Receiver<bool>)>,
}

impl FileEnd {
    pub(super) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file,
            wake: Wake::new()?,
            writer: None,
        })
    }

    pub(super) fn start(&mut self) -> io::Result<()> {
        let (file, wake) = (self.file.try_clone()?, self.wake.duplicate()?);
        let (written, over) = mpsc::channel();
        let writer = FileWriter::start(file, move |rest| {
            // Nobody is there to hear it any more if this fails.
            let _ = written.send(rest.is_empty());
            wake.wake();
        })?;
        self.writer = Some((writer, over));
        Ok(())
    }

    /// Begins to write a piece. The one before is over.
    pub(super) fn write(&mut self, piece: Vec<u8>) {
        if let Some((writer, _)) = &self.writer {
            writer.write(piece);
        }
    }

    /// Whether the file took all of the last piece, once that is over.
    pub(super) fn written(&mut self) -> Option<bool> {
        self.writer.as_ref()?.1.try_recv().ok()
    }

    /// Readable when a piece is over.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
