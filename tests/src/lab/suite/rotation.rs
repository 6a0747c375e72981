//! Which hosts a run boots, if not all of them.
//!
//! The whole suite takes too long to wait for before each change. The hosts that say most about a
//! change run always. The others are split into parts of about the same cost, and each run takes
//! one part: the runs of successive commits take all parts in turn. The number of parts is chosen
//! so that a run stays within its budget, so that a growing suite does not become slower.

use std::str::FromStr;

/// The budget for the hosts of a run, in seconds of a single host. A machine with two CPUs runs two
/// hosts at a time: six minutes, in addition to cargo's.
pub(super) const BUDGET: u32 = 720;
/// The maximum number of parts, however much there is to run: each host must get its turn.
const MOST_PARTS: usize = 12;

/// Hosts that no other scenario shares but that run always: one for each way in which a change can
/// break everything.
const ALWAYS: &[&str] = &[
    "debug/one-kernel",
    "forged/none",
    "guest/guest-memfd",
    "homes/luo",
    "host/c-example",
    "passthrough/guest",
    "selftests/memory",
    "upgrade/guest-memfd",
];

/// Hosts that scenarios share but that run in turns: each is for one or two long scenarios.
const IN_TURNS: &[&str] = &["guests-one-boot-1", "large-kexec-2", "lifeboat-one-boot-1"];

/// One of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 1.
    pub(crate) number: usize,
    pub(crate) of: usize,
}

impl Part {
    /// The part for run number `turn`.
    pub(super) fn of_turn(turn: u64, of: usize) -> Self {
        let number = turn % of.max(1) as u64;
        Self {
            number: usize::try_from(number).unwrap_or(0) + 1,
            of,
        }
    }
}

/// The CPUs of a host with one guest in run number `turn`, if nothing else is said: one or two. Each part gets both
/// in turn.
pub(super) fn guest_cpus(turn: u64) -> u32 {
    match (turn + turn / MOST_PARTS as u64) % 2 {
        0 => 1,
        _ => 2,
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/').and_then(|(number, of)| {
            let part = Self {
                number: number.parse().ok()?,
                of: of.parse().ok()?,
            };
            (1..=part.of).contains(&part.number).then_some(part)
        });
        numbers.ok_or_else(|| "write it as K/N, K from 1 to N, as in 2/4".to_owned())
    }
}

/// The properties of a host that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) host: String,
    /// On one of the machine's two lanes; doubled for a host that uses both.
    pub(super) seconds: u32,
    /// Whether the cost was measured.
    pub(super) is_measured: bool,
    /// Whether it runs in every part.
    pub(super) always: bool,
    /// Hosts with the same value are in the same part.
    pub(super) with: Option<&'static str>,
}

/// Whether a host runs always: a host shared by scenarios covers many of them with one boot.
pub(super) fn is_always(host: &str, is_shared: bool) -> bool {
    match is_shared {
        true => !IN_TURNS.contains(&host),
        false => ALWAYS.contains(&host),
    }
}

/// The part of each host, from 1; 0 means all parts.
///
/// Measured hosts are assigned in order of decreasing cost, each to the part with the lowest cost
/// so far. A host that was not measured yet is assigned by its name alone, so that adding it moves
/// no other host. Hosts that belong together are assigned by what they have in common.
pub(super) fn split(hosts: &[Turn], of: usize) -> Vec<usize> {
    let of = of.max(1);
    let mut parts = vec![0; hosts.len()];
    let mut sums = vec![0; of];
    let mut order = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        match host.with {
            _ if host.always => {}
            None => order.push(index),
            Some(with) => {
                let part = by_name(with, of);
                parts[index] = part + 1;
                if host.is_measured {
                    sums[part] += host.seconds;
                }
            }
        }
    }
    order.sort_by_key(|index| {
        let host = &hosts[*index];
        (std::cmp::Reverse(host.seconds), &host.host)
    });
    let (measured, new): (Vec<usize>, Vec<usize>) = order
        .into_iter()
        .partition(|index| hosts[*index].is_measured);
    for index in measured {
        let least = (0..of).min_by_key(|part| sums[*part]).unwrap_or(0);
        sums[least] += hosts[index].seconds;
        parts[index] = least + 1;
    }
    for index in new {
        parts[index] = by_name(&hosts[index].host, of) + 1;
    }
    parts
}

/// FNV-1a of the name.
fn by_name(name: &str, of: usize) -> usize {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    usize::try_from(hash % of as u64).unwrap_or(0)
}

/// The number of parts needed so that no run costs more than `budget`, as far as possible: a part
/// with a single host cannot be split.
pub(super) fn parts(hosts: &[Turn], budget: u32) -> usize {
    let fits = |of: &usize| {
        let split = split(hosts, *of);
        (1..=*of).all(|number| {
            let is_one = split.iter().filter(|it| **it == number).count() <= 1;
            is_one || cost(hosts, &split, number) <= budget
        })
    };
    (1..MOST_PARTS).find(fits).unwrap_or(MOST_PARTS)
}

/// The cost of a run of this part, including the hosts that run always.
fn cost(hosts: &[Turn], split: &[usize], part: usize) -> u32 {
    let taken = hosts.iter().zip(split);
    taken
        .filter(|(_, number)| **number == 0 || **number == part)
        .map(|(host, _)| host.seconds)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_gets_one_and_two_cpus_in_turn() {
        let parts = MOST_PARTS as u64;
        for turn in 0..2 * parts {
            let later = turn + parts;
            let same = Part::of_turn(turn, MOST_PARTS) == Part::of_turn(later, MOST_PARTS);
            assert!(same && guest_cpus(turn) != guest_cpus(later), "turn {turn}");
        }
    }

    fn turn(host: &str, seconds: u32) -> Turn {
        Turn {
            host: host.to_owned(),
            seconds,
            is_measured: true,
            always: false,
            with: None,
        }
    }

    /// Some hosts that run always, and many that do not.
    fn hosts() -> Vec<Turn> {
        let mut hosts: Vec<_> = (0..40)
            .map(|n: u32| turn(&format!("host/{n}"), 20 + n * 7 % 90))
            .collect();
        for host in &mut hosts[..6] {
            host.always = true;
        }
        hosts
    }

    #[test]
    fn every_host_is_in_one_part_or_in_all() {
        let hosts = hosts();
        for of in 1..=MOST_PARTS {
            let split = split(&hosts, of);
            assert_eq!(split.len(), hosts.len());
            for (host, number) in hosts.iter().zip(&split) {
                match host.always {
                    true => assert_eq!(*number, 0),
                    false => assert!((1..=of).contains(number), "{host:?}: {number}"),
                }
            }
            // No part is empty: that would waste turns.
            assert!((1..=of).all(|part| split.contains(&part)));
        }
    }

    #[test]
    fn parts_cost_about_the_same() {
        let hosts = hosts();
        let smallest = hosts.iter().map(|host| host.seconds).min().unwrap();
        let split = split(&hosts, 4);
        let costs = (1..=4).map(|number| cost(&hosts, &split, number));
        let (least, greatest) = (costs.clone().min().unwrap(), costs.max().unwrap());
        assert!(greatest - least <= smallest, "{least} to {greatest}");
    }

    #[test]
    fn a_new_host_moves_no_other() {
        let mut hosts = hosts();
        let before = split(&hosts, 5);
        for name in ["a/new", "z/new", "host/3x"] {
            hosts.insert(
                7,
                Turn {
                    is_measured: false,
                    ..turn(name, 500)
                },
            );
            let after = split(&hosts, 5);
            let others = hosts
                .iter()
                .zip(&after)
                .filter(|(host, _)| host.is_measured);
            assert!(others.map(|(_, part)| part).eq(&before), "{name}");
        }
        // Nor does the order in which they are listed.
        hosts.reverse();
        let mut reversed = split(&hosts, 5);
        hosts.reverse();
        reversed.reverse();
        assert_eq!(reversed, split(&hosts, 5));
    }

    #[test]
    fn what_goes_together_is_in_one_part() {
        let mut hosts = hosts();
        for index in [9, 20, 33] {
            hosts[index].with = Some("fdbox-modular");
        }
        let parts = split(&hosts, 4);
        assert!((1..=4).contains(&parts[9]));
        assert_eq!((parts[20], parts[33]), (parts[9], parts[9]));
        let costs: Vec<_> = (1..=4).map(|part| cost(&hosts, &parts, part)).collect();
        let (least, most) = (costs.iter().min().unwrap(), costs.iter().max().unwrap());
        assert!(most - least <= 30, "The others make up for it: {costs:?}");
    }

    #[test]
    fn there_are_as_many_parts_as_the_budget_takes() {
        let hosts = hosts();
        let all: u32 = hosts.iter().map(|host| host.seconds).sum();
        assert_eq!(parts(&hosts, all), 1);
        let of = parts(&hosts, all / 2);
        assert!((2..MOST_PARTS).contains(&of));
        let split = split(&hosts, of);
        assert!((1..=of).all(|number| cost(&hosts, &split, number) <= all / 2));
        assert_eq!(parts(&hosts, 0), MOST_PARTS);
        // A host above the budget gets a part of its own, and does not increase the number of
        // parts.
        let large = [turn("large", 500), turn("a", 40), turn("b", 50)];
        assert_eq!(parts(&large, 100), 2);
    }

    #[test]
    fn successive_turns_take_all_parts() {
        let mut numbers: Vec<_> = (262..266)
            .map(|turn| Part::of_turn(turn, 4).number)
            .collect();
        numbers.sort();
        assert_eq!(numbers, [1, 2, 3, 4]);
    }

    #[test]
    fn a_part_is_read_as_it_is_written() {
        let part: Part = "2/4".parse().unwrap();
        assert_eq!(part.to_string(), "2/4");
        for wrong in ["0/4", "5/4", "2", "/", "-1/4", "a/b", "1/0"] {
            assert!(wrong.parse::<Part>().is_err(), "{wrong}");
        }
    }
}
