use super::*;
use crate::bytes::text_into;

fn name() -> [u8; FDBOX_NAME_LEN] {
    text_into("vm0")
}

fn request() -> Request {
    let owner = 990 | 991 << 32;
    Request::new(Command::Give).name(name()).number(owner)
}

fn reply() -> Reply {
    Reply {
        error: Some(Errno::BUSY),
        code: 2,
        numbers: [1, 2, 3, u64::MAX],
        name: name(),
        kind: text_into("keeper,memfd-v1"),
        message: text_into("another box has it"),
        ..Reply::new(Command::Seal)
    }
}

#[test]
fn what_is_said_is_heard() {
    assert_eq!(Request::decode(&request().encode()), Some(request()));
    assert_eq!(Reply::decode(&reply().encode()), Some(reply()));
    for command in Command::ALL {
        let mut request = Request::new(command);
        if command.has_name() {
            request = request.name(name());
        }
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let reply = Reply::new(command);
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }
}

/// Version 1 stays as it is: keeper and VMM may be of different builds.
#[test]
fn the_golden_packets_are_as_they_were() {
    let golden = include_bytes!("../../../tests/golden/keeper-request-v1.bin");
    assert_eq!(request().encode(), *golden);
    let golden = include_bytes!("../../../tests/golden/keeper-reply-v1.bin");
    assert_eq!(reply().encode(), *golden);
}

#[test]
fn what_is_not_of_this_protocol_is_refused() {
    let changed = |at: usize, to: u8| {
        let mut bytes = request().encode();
        bytes[at] = to;
        Request::decode(&bytes)
    };
    // Magic, version, a command that there is not, behind the name's end, no name.
    for (at, to) in [(0, b'X'), (4, 2), (6, 99), (16 + 10, 1), (16, 0)] {
        assert_eq!(changed(at, to), None, "byte {at}");
    }
    let whole = request().encode();
    assert_eq!(Request::decode(&whole[..REQUEST_BYTES - 1]), None);
    assert_eq!(Request::decode(&[&whole[..], &[0]].concat()), None);
    assert_eq!(Request::decode(&[]), None);

    // Fields that a command has no use for.
    let named = Request::new(Command::Seal).name(name());
    assert_eq!(Request::decode(&named.encode()), None);
    let numbered = Request::new(Command::Seal).number(1);
    assert_eq!(Request::decode(&numbered.encode()), None);

    let mut bytes = reply().encode();
    bytes[8..12].copy_from_slice(&4096_u32.to_le_bytes());
    assert_eq!(Reply::decode(&bytes), None, "no such errno");
    let mut bytes = reply().encode();
    bytes[NAME_AT..KIND_AT].fill(b'x');
    assert_eq!(Reply::decode(&bytes), None, "a name without an end");
}

#[test]
fn fuzz_keeper() {
    let seeds = [&request().encode()[..], &reply().encode()];
    crate::fuzz::run("keeper", &seeds, |input| {
        if let Some(request) = Request::decode(input) {
            assert_eq!(request.encode(), input);
        }
        if let Some(reply) = Reply::decode(input) {
            assert_eq!(reply.encode(), input);
        }
    });
}
