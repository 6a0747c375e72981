//! A file that the console's output goes to, in pieces, one in flight at a time.

use std::fs::File;
use std::io;

use super::ring::Ring;
use crate::devices::file_writer::FileWriter;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct FileSink {
    file: File,
    writer: Option<FileWriter>,
    /// A piece is being written.
    is_busy: bool,
    /// It gets no more pieces.
    is_held: bool,
}

impl FileSink {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            writer: None,
            is_busy: false,
            is_held: false,
        }
    }

    /// `over` gets the part of each piece that the file did not accept.
    pub(super) fn start(&mut self, over: impl Fn(Vec<u8>) + Send + 'static) -> io::Result<()> {
        if self.writer.is_none() {
            self.writer = Some(FileWriter::start(self.file.try_clone()?, over)?);
        }
        Ok(())
    }

    /// Begins to write the pending output, unless a piece is being written or the file is held.
    pub(super) fn send(&mut self, unsent: &mut Ring) {
        if let Some(writer) = &self.writer
            && !self.is_busy
            && !self.is_held
            && !unsent.is_empty()
        {
            self.is_busy = true;
            writer.write(unsent.take());
        }
    }

    /// Called when the piece is done.
    pub(super) fn over(&mut self) {
        self.is_busy = false;
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The file, if its data can be lost with the kernel.
    pub(super) fn unsynced(&self) -> io::Result<Option<File>> {
        match self.file.metadata()?.is_file() {
            true => self.file.try_clone().map(Some),
            false => Ok(None),
        }
    }

    pub(super) fn hold(&mut self, held: bool) {
        self.is_held = held;
    }
}
