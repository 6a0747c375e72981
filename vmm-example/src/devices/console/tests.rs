use super::*;
use std::io::Read;
use std::os::fd::AsFd;
use std::thread;

fn on_file(file: impl Into<OwnedFd>) -> Arc<Console> {
    let sink = Sink::File(FileSink::new(file.into().into()));
    let console = Arc::new(Console::with(sink).unwrap());
    console.start().unwrap();
    console
}

fn now() -> Deadline {
    Deadline::within(Duration::ZERO)
}

fn later() -> Deadline {
    Deadline::within(Duration::from_secs(60))
}

fn has_room(pipe: &io::PipeWriter) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(pipe, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() > 0
}

#[test]
fn what_was_said_before_a_client_came_reaches_it() {
    let console = Console::buffer();
    console.output(b"early ");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    console.connect(Some(ours));
    console.output(b"late");
    let mut got = [0; 10];
    theirs.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"early late");
    assert!(console.unsent().is_empty());
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() {
    let (mut reader, writer) = io::pipe().unwrap();
    let writer: &'static io::PipeWriter = Box::leak(Box::new(writer));
    let console = Console::with(Sink::Stdout(writer.as_fd())).unwrap();
    for _ in 0..1000 {
        console.output(&[b'x'; 1024]);
    }
    assert_eq!(console.unsent().len(), BUFFER);
    let mut got = vec![0; 1 << 20];
    assert!(reader.read(&mut got).unwrap() > 0);
    console.flush();
    assert!(console.unsent().len() < BUFFER);
}

#[test]
fn a_client_that_does_not_read_stops_nobody() {
    let console = Console::buffer();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    console.connect(Some(ours));
    for _ in 0..1000 {
        console.output(&[b'x'; 1024]);
    }
    assert_eq!(console.unsent().len(), BUFFER);
    let mut got = vec![0; 1 << 20];
    assert!(theirs.read(&mut got).unwrap() > 0);
    console.flush();
    assert!(console.unsent().len() < BUFFER);
}

#[test]
fn a_file_that_takes_its_time_stops_nobody() {
    let (mut reader, writer) = io::pipe().unwrap();
    let console = on_file(writer.try_clone().unwrap());
    // Until the pipe is full, the thread that writes takes one piece after the other.
    while has_room(&writer) {
        console.output(&[b'x'; 1024]);
        thread::yield_now();
    }
    drop(writer);
    for _ in 0..1000 {
        console.output(&[b'x'; 1024]);
    }
    console.output(b"y");
    assert_eq!(console.unsent().len(), BUFFER);
    let busy = console.hold(now()).unwrap_err();
    assert!(matches!(busy, ConsoleError::Busy { .. }), "{busy}");
    let all = thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all
    });
    // The current piece is finished, and no other one begins.
    console.hold(later()).unwrap();
    console.output(b"z");
    assert_eq!(console.unsent()[BUFFER - 2..], *b"yz");
    console.release();
    console.finish(later()).unwrap();
    drop(console);
    assert!(all.join().unwrap().ends_with(b"xyz"));
}

#[test]
fn what_was_said_elsewhere_goes_to_the_file_first() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let console = on_file(file.reopen().unwrap());
    console.queue(b"before ");
    console.flush();
    console.output(b"and ");
    console.output(b"after");
    console.finish(later()).unwrap();
    let mut got = String::new();
    file.read_to_string(&mut got).unwrap();
    assert_eq!(got, "before and after");
}

#[test]
fn what_a_file_does_not_take_stays() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let console = on_file(full);
    console.output(b"kept");
    console.finish(later()).unwrap();
    console.output(b" too");
    console.finish(later()).unwrap();
    assert_eq!(console.unsent(), b"kept too");
}
