//! Lines, descriptors and deadlines over a real socket.

use std::io::Write;
use std::os::fd::AsFd;

use serde_json::json;

use super::*;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Message {
    Plain {},
    Text { text: String },
}

fn text(text: impl Into<String>) -> Message {
    Message::Text { text: text.into() }
}

const SOON: Duration = Duration::from_secs(20);

fn soon() -> Deadline {
    Deadline::within(SOON)
}

fn pair() -> (Channel, Channel) {
    let (one, other) = UnixStream::pair().unwrap();
    (Channel::new(one), Channel::new(other))
}

/// A file that can be distinguished from others by its size.
fn file(size: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    fd
}

fn sizes(heard: &Heard<Message>) -> Vec<(&str, i64)> {
    let size = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_size;
    let fds = heard.fds.iter();
    fds.map(|(name, fd)| (name.as_str(), size(fd))).collect()
}

#[test]
fn each_line_has_its_own_descriptors_however_many_are_read_at_once() {
    let (mut one, mut other) = pair();
    let files: Vec<OwnedFd> = (1..=3).map(file).collect();
    let fds = |which: &'static [(&'static str, usize)]| {
        let fd = |(name, at): &(&'static str, usize)| (*name, files[*at].as_fd());
        which.iter().map(fd).collect::<Vec<_>>()
    };
    one.send(&text("a"), &[], soon()).unwrap();
    one.send(&text("b"), &fds(&[("x", 0), ("y", 1)]), soon())
        .unwrap();
    one.send(&Message::Plain {}, &[], soon()).unwrap();
    one.send(&text("d"), &fds(&[("z", 2)]), soon()).unwrap();
    one.send(&text("e"), &[], soon()).unwrap();
    let mut heard = || other.receive::<Message>(soon()).unwrap();
    assert_eq!(heard().fds.len(), 0);
    assert_eq!(sizes(&heard()), [("x", 1), ("y", 2)]);
    assert_eq!(heard().message, Message::Plain {});
    assert_eq!(sizes(&heard()), [("z", 3)]);
    assert_eq!(heard().message, text("e"));
}

#[test]
fn a_long_line_keeps_its_descriptors_and_the_next_one_its_own() {
    let (mut one, mut other) = pair();
    // Larger than a read, a socket buffer and a packet; its end is read together with the next
    // line.
    let long = text("x".repeat(700_000));
    let sent = long.clone();
    let writer = std::thread::spawn(move || {
        let (first, second) = (file(1), file(2));
        one.send(&sent, &[("x", first.as_fd())], soon()).unwrap();
        one.send(&Message::Plain {}, &[("y", second.as_fd())], soon())
            .unwrap();
        one
    });
    let heard = other.receive::<Message>(soon()).unwrap();
    assert!(heard.message == long);
    assert_eq!(sizes(&heard), [("x", 1)]);
    assert_eq!(sizes(&other.receive(soon()).unwrap()), [("y", 2)]);
    drop(writer.join().unwrap());
    let gone = other.receive::<Message>(soon()).unwrap_err();
    assert!(matches!(gone, ChannelError::Gone), "{gone}");
}

#[test]
fn nothing_is_lost_without_a_word() {
    let (mut one, mut other) = pair();
    let fd = file(1);
    let many = vec![("x", fd.as_fd()); MAX_FDS + 1];
    let error = one.send(&Message::Plain {}, &many, soon()).unwrap_err();
    assert!(matches!(error, ChannelError::TooManyFds(254)), "{error}");
    let error = one.send(&text("x".repeat(MAX_LINE_BYTES)), &[], soon());
    assert!(matches!(error, Err(ChannelError::TooLong)));
    // Neither was sent, and the connection still works.
    one.send(&Message::Plain {}, &many[..MAX_FDS], soon())
        .unwrap();
    assert_eq!(other.receive::<Message>(soon()).unwrap().fds.len(), MAX_FDS);
    // A line that names descriptors that did not come, and one that does not name those that did.
    one.socket
        .write_all(b"{\"say\":\"plain\",\"fds\":[\"x\"]}\n")
        .unwrap();
    let error = other.receive::<Message>(soon()).unwrap_err();
    assert!(
        matches!(error, ChannelError::FdsDiffer { named: 1, came: 0 }),
        "{error}"
    );
    one.write(b"{\"say\":\"plain\"}\n", &[fd.as_fd()], soon())
        .unwrap();
    let error = other.receive::<Message>(soon()).unwrap_err();
    assert!(
        matches!(error, ChannelError::FdsDiffer { named: 0, came: 1 }),
        "{error}"
    );
}

#[test]
fn a_line_that_never_ends_does_not_take_all_descriptors_that_there_are() {
    let (one, mut other) = pair();
    let fd = file(1);
    let many = vec![fd.as_fd(); MAX_FDS];
    for _ in 0..3 {
        one.write(b"x", &many, soon()).unwrap();
    }
    let refused = other.receive::<Message>(soon()).unwrap_err();
    assert!(
        matches!(refused, ChannelError::TooManyFds(count) if count == 3 * MAX_FDS),
        "{refused}"
    );
}

#[test]
fn what_is_not_of_the_protocol_is_refused() {
    for line in [
        "",
        "7",
        "{}",
        r#"{"say":"shout"}"#,
        r#"{"say":"plain","with":{"more":1}}"#,
        r#"{"say":"plain","and":1}"#,
        r#"{"say":"text"}"#,
        r#"{"say":"text","with":{"text":1}}"#,
    ] {
        let (mut one, mut other) = pair();
        one.socket
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
        let error = other.receive::<Message>(soon()).unwrap_err();
        assert!(
            matches!(error, ChannelError::Nonsense(_)),
            "{line}: {error}"
        );
        // The next message is received.
        one.send(&Message::Plain {}, &[], soon()).unwrap();
        assert_eq!(
            other.receive::<Message>(soon()).unwrap().message,
            Message::Plain {}
        );
    }
    let (mut one, mut other) = pair();
    let flood = vec![b'x'; 2 * MAX_LINE_BYTES];
    let writer = std::thread::spawn(move || one.socket.write_all(&flood));
    let error = other.receive::<Message>(soon()).unwrap_err();
    assert!(matches!(error, ChannelError::TooLong), "{error}");
    drop(other);
    assert!(writer.join().unwrap().is_err());
}

#[test]
fn nobody_waits_beyond_the_deadline() {
    let (mut one, mut other) = pair();
    let late = Deadline::within(Duration::from_millis(10));
    let error = other.receive::<Message>(late).unwrap_err();
    assert!(matches!(error, ChannelError::Late(_)), "{error}");
    // Sending to a process that does not read must not block forever either.
    let long = text("x".repeat(900_000));
    let error = one.send(&long, &[], Deadline::within(Duration::from_millis(10)));
    assert!(matches!(error, Err(ChannelError::Late(_))));
}

#[test]
fn lines_are_as_the_protocol_says() {
    let line = |word: &Message, fds: &[&str]| {
        let fds = fds.iter().map(|name| (*name).to_owned()).collect();
        serde_json::to_value(Line::new(word, fds).unwrap()).unwrap()
    };
    assert_eq!(line(&Message::Plain {}, &[]), json!({ "say": "plain" }));
    assert_eq!(
        line(&text("a"), &["x"]),
        json!({ "say": "text", "with": { "text": "a" }, "fds": ["x"] })
    );
}
