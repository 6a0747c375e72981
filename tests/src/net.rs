//! The addresses of the lab's network. The host routes between its network card, to which the lab
//! is connected, and one tap per guest.

use std::net::Ipv4Addr;
use std::str::FromStr;

/// The lab, outside the host.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The host's network card.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// The netmask of all networks.
pub const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// The port that guests listen on.
pub const PORT: u16 = 7000;
/// The network card, in the host and in a guest.
pub const CARD: &str = "eth0";

/// A network behind the host whose other end takes nothing: its name in the host, the host's address in it, and
/// one that is somebody else's.
pub const STUCK: &str = "stuck";
pub const STUCK_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
pub const STUCK_PEER: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);

/// The word of a guest's kernel command line with its number: `lab_guest=2`.
pub const GUEST_WORD: &str = "lab_guest";

/// The word with the factor by which a guest is to work more slowly than usual.
pub const PACE_WORD: &str = "lab_pace";

/// Guest `number` of its host.
pub fn guest(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, number, 2)
}

/// The host's address on the tap of guest `number`.
pub fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, number, 1)
}

/// The name of that tap.
pub fn tap(number: u8) -> String {
    format!("tap{number}")
}

/// The user that the VMM of guest `number` runs as: the owner of the guest's drive and tap.
pub fn user(number: u8) -> u32 {
    2000 + u32::from(number)
}

/// The user that the VMM of a guest without drive and tap runs as, by the guest's name.
pub fn user_of(name: &str) -> u32 {
    let hash = |hash: u32, byte: u8| hash.wrapping_mul(31).wrapping_add(u32::from(byte));
    3000 + name.bytes().fold(0, hash) % 50_000
}

/// The number of this guest, from its kernel command line.
pub fn guest_of(cmdline: &str) -> Option<u8> {
    number_of(cmdline, GUEST_WORD)
}

/// By which factor this guest is to work more slowly than usual.
pub fn pace_of(cmdline: &str) -> u32 {
    number_of(cmdline, PACE_WORD).unwrap_or(1).max(1)
}

/// By which factor each of `guests` guests is to work more slowly than usual if they share an
/// emulated CPU: switching between more guests leaves less time for each.
pub fn pace_among(guests: u8) -> u32 {
    u32::from(guests).pow(2).max(1)
}

fn number_of<N: FromStr>(cmdline: &str, name: &str) -> Option<N> {
    let words = cmdline.split_ascii_whitespace();
    let mut numbers = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    numbers.next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_knows_its_number() {
        assert_eq!(guest_of("console=ttyS0 lab_guest=3 panic=-1"), Some(3));
        assert_eq!(guest_of("console=ttyS0"), None);
        assert_eq!(guest_of("lab_guest=x"), None);
        assert_eq!(guest_of("lab_guests=1"), None);
        assert_eq!(pace_of("lab_guest=3 lab_pace=4"), 4);
        assert_eq!(pace_of("lab_guest=3"), 1);
        assert_eq!(pace_of("lab_pace=0"), 1);
        let of_many = pace_among(32);
        assert_eq!(pace_of(&format!("lab_pace={of_many}")), of_many);
    }
}
