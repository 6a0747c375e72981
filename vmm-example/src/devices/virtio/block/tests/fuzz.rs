//! A malicious guest, and a host that finishes jobs or fails them.

use super::held::{Held, fine};
use super::*;
use crate::devices::virtio::fuzz::{Guest, seed};

/// Finishes some of the jobs; the first number says which, and how.
fn host(held: &Held, how: u8) {
    let count = usize::from(how % 4).min(held.count());
    match how / 4 % 4 {
        0 => held.end(count, |_| Err(io::ErrorKind::PermissionDenied.into())),
        1 => held.end(count, |_| {
            Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
        }),
        _ => held.end(count, fine),
    }
}

#[test]
fn fuzz_virtio_block() {
    let of = |kind: u32, shape, buffers: &[(u8, u8)]| seed(&header(kind, 3), 0, shape, buffers);
    let seeds = [
        of(VIRTIO_BLK_T_IN, 9, &[(0, 4), (2, 7), (1, 1)]),
        of(VIRTIO_BLK_T_OUT, 6, &[(0, 4), (2, 7), (1, 1)]),
        of(VIRTIO_BLK_T_FLUSH, 5, &[(0, 4), (1, 1)]),
        of(VIRTIO_BLK_T_GET_ID, 9, &[(0, 4), (2, 6), (1, 1)]),
        of(VIRTIO_BLK_T_DISCARD, 6, &[(0, 4), (2, 4), (1, 1)]),
        of(VIRTIO_BLK_T_WRITE_ZEROES, 6, &[(0, 4), (2, 4), (1, 1)]),
        of(VIRTIO_BLK_T_IN, 13, &[(0, 4), (2, 11), (3, 11), (1, 1)]),
    ];
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    crate::fuzz::run("virtio-block", &seeds, |input| {
        let held = Held::new();
        let mut guest = Guest::new(Box::new(held.disk()));
        guest.run(input, |how| host(&held, how));
        // Whatever the guest has done, it comes to rest when the host has done what it began.
        guest.device.quiesce();
        guest.device.on_source();
        while held.count() > 0 {
            held.end(held.count(), fine);
            guest.device.on_source();
        }
        assert_eq!(guest.device.with_device(|device| device.in_flight()), 0);
    });
}
