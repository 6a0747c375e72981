//! The header of a packet (virtio specification, 5.10.6).

/// The size of a header.
pub(super) const HEADER: usize = 44;
/// The CID of the host.
pub(super) const HOST_CID: u64 = 2;
/// The only supported type: streams.
const STREAM: u16 = 1;

/// In a shutdown: the sender receives nothing more.
pub(super) const NO_RECEIVE: u32 = 1;
/// In a shutdown: the sender sends nothing more.
pub(super) const NO_SEND: u32 = 2;

/// The purpose of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    fn of(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// The content of a packet without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) ports: Ports,
    pub(super) op: Op,
    /// The length of the data after the header.
    pub(super) len: u32,
    pub(super) flags: u32,
    /// The size of the sender's buffer.
    pub(super) buf_alloc: u32,
    /// The number of bytes that the sender has consumed so far.
    pub(super) fwd_cnt: u32,
}

/// Why something sent by the guest is not a packet of a stream to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PacketError {
    /// To be answered with a reset.
    Unsupported(Ports),
    /// Not from this guest, or not to the host: to be dropped.
    Misaddressed,
}

impl Packet {
    /// A packet without data, flags or credit.
    pub(super) fn new(ports: Ports, op: Op) -> Self {
        Self {
            ports,
            op,
            len: 0,
            flags: 0,
            buf_alloc: 0,
            fwd_cnt: 0,
        }
    }

    /// Decodes a packet from the guest with this CID.
    pub(super) fn decode(bytes: &[u8; HEADER], cid: u64) -> Result<Self, PacketError> {
        let long = |at: usize| {
            let bytes = bytes[at..at + 8].try_into().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        let word = |at: usize| (long(at - 4) >> 32) as u32;
        let [.., t0, t1, o0, o1] = *bytes.first_chunk::<32>().unwrap_or(&[0; 32]);
        if (long(0), long(8)) != (cid, HOST_CID) {
            return Err(PacketError::Misaddressed);
        }
        let ports = Ports {
            guest: word(16),
            host: word(20),
        };
        let op = Op::of(u16::from_le_bytes([o0, o1]));
        match op {
            Some(op) if u16::from_le_bytes([t0, t1]) == STREAM => Ok(Self {
                ports,
                op,
                len: word(24),
                flags: word(32),
                buf_alloc: word(36),
                fwd_cnt: word(40),
            }),
            _ => Err(PacketError::Unsupported(ports)),
        }
    }

    /// Encodes the packet for the guest with this CID.
    pub(super) fn encode(&self, cid: u64) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &HOST_CID.to_le_bytes());
        put(8, &cid.to_le_bytes());
        put(16, &self.ports.host.to_le_bytes());
        put(20, &self.ports.guest.to_le_bytes());
        put(24, &self.len.to_le_bytes());
        put(28, &STREAM.to_le_bytes());
        put(30, &(self.op as u16).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buf_alloc.to_le_bytes());
        put(40, &self.fwd_cnt.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: Ports = Ports {
        host: 7,
        guest: 1024,
    };

    /// Turns a packet for the guest into one from the guest.
    fn turned(packet: &Packet) -> [u8; HEADER] {
        let mut bytes = packet.encode(3);
        bytes[..16].rotate_left(8);
        bytes[16..24].rotate_left(4);
        bytes
    }

    #[test]
    fn packets_round_trip() {
        let packet = Packet {
            len: 5,
            flags: 3,
            buf_alloc: 4096,
            fwd_cnt: u32::MAX,
            ..Packet::new(PORTS, Op::Shutdown)
        };
        assert_eq!(Packet::decode(&turned(&packet), 3), Ok(packet));
    }

    #[test]
    fn what_is_not_for_the_host_is_told_apart() {
        let mut bytes = turned(&Packet::new(PORTS, Op::Data));
        assert_eq!(Packet::decode(&bytes, 4), Err(PacketError::Misaddressed));
        bytes[28] = 2;
        assert_eq!(
            Packet::decode(&bytes, 3),
            Err(PacketError::Unsupported(PORTS))
        );
        let mut bytes = turned(&Packet::new(PORTS, Op::Data));
        bytes[30] = 99;
        assert_eq!(
            Packet::decode(&bytes, 3),
            Err(PacketError::Unsupported(PORTS))
        );
    }
}
