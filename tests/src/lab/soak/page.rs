//! The report of a soak as a page.

use fdbox_lab::soak::{Kind, Sample};

use super::{Seen, counts};
use crate::page::chart::{self, Line};
use crate::page::{Card, Page, Quantity, time};

/// A curve: its name, and its figure.
type Curve = (&'static str, fn(&Sample) -> u64);

const MEMORY: &[Curve] = &[
    ("available", |it| it.available_kib * 1024),
    ("unreclaimable slab", |it| it.unreclaimable_slab_kib * 1024),
    ("vmalloc", |it| it.vmalloc_kib * 1024),
    ("in no counter", |it| it.uncounted_kib * 1024),
    ("the VMM's own", |it| it.vmm_anonymous_kib * 1024),
];
const COUNTS: &[Curve] = &[
    ("open files", |it| it.open_files),
    ("the VMM's FDs", |it| it.vmm_fds),
    ("the VMM's threads", |it| it.vmm_threads),
];

pub(super) fn page(seen: &Seen, seed: u64) -> String {
    let Seen {
        samples,
        kexecs,
        failures,
    } = seen;
    let mut page = Page::new("Updates, one after the other");
    let mut blackouts: Vec<u64> = samples.iter().filter_map(|it| it.blackout_ns).collect();
    blackouts.sort_unstable();
    page.cards(&[
        Card::new(samples.len().to_string(), "updates in a kernel"),
        Card::new(kexecs.to_string(), "kexecs under the guest"),
        Card {
            is_bad: !failures.is_empty(),
            ..Card::new(failures.len().to_string(), "failures")
        },
        Card::new(
            blackouts
                .get(blackouts.len() / 2)
                .map_or_else(|| "-".to_owned(), |ns| time(*ns)),
            "blackout of a replacement, median",
        ),
    ]);
    page.note(&format!(
        "One guest, and one host at a time. After each update it was alive, and its disk and network went on; its \
         memory was checked after every tenth and at each kexec. Seed {seed}."
    ));
    for failure in failures {
        page.heading("Failed");
        page.text(failure);
    }
    page.heading("What was done");
    let rows: Vec<_> = counts(samples)
        .into_iter()
        .map(|(kind, count)| vec![kind, count.to_string()])
        .collect();
    page.table(&["update".to_owned(), "times".to_owned()], &rows);
    page.heading("The host's memory");
    page.chart(&chart::lines(
        "",
        Quantity::Bytes,
        &curves(samples, &MEMORY[..1]),
    ));
    page.heading("Parts of it");
    page.chart(&chart::lines(
        "",
        Quantity::Bytes,
        &curves(samples, &MEMORY[1..]),
    ));
    page.heading("Files and threads");
    page.chart(&chart::lines("", Quantity::Count, &curves(samples, COUNTS)));
    page.heading("Blackout of each replacement");
    let points = samples.iter();
    let points = points
        .filter_map(|it| Some((it.update, it.blackout_ns?)))
        .collect();
    let blackout = Line {
        name: "blackout".to_owned(),
        points,
    };
    page.chart(&chart::lines("", Quantity::Time, &[blackout]));
    page.finish()
}

fn curves(samples: &[Sample], curves: &[Curve]) -> Vec<Line> {
    let line = |(name, figure): &Curve| Line {
        name: (*name).to_owned(),
        points: samples.iter().map(|it| (it.update, figure(it))).collect(),
    };
    curves.iter().map(line).collect()
}

/// The page of a made-up soak, to try its layout with.
pub(crate) fn sample() -> String {
    let sample = |update: u64| {
        let kind = Kind::ALL[(update * 7 % 5) as usize];
        Sample {
            update,
            kexecs: update / 250,
            kind,
            blackout_ns: (kind == Kind::Replaced).then_some(6_000_000 + update * 977 % 900_000),
            total_kib: 2_000_000,
            uncounted_kib: 9_100,
            available_kib: 1_480_000 - update * 3 + update * 31 % 400,
            unreclaimable_slab_kib: 14_800 + update % 50,
            vmalloc_kib: 2_100,
            open_files: 212 + update % 3,
            vmm_fds: 41,
            vmm_threads: 9,
            vmm_anonymous_kib: 5_800 + update % 90,
        }
    };
    let seen = Seen {
        samples: (1..=1000).map(sample).collect(),
        kexecs: 4,
        failures: vec!["Update 1001, Replaced: exit status 11".to_owned()],
    };
    page(&seen, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_a_curve_for_each_figure_and_says_what_failed() {
        let page = sample();
        assert!(page.contains("Update 1001, Replaced"));
        assert_eq!(
            page.matches("<polyline").count(),
            MEMORY.len() + COUNTS.len() + 1
        );
        assert!(!page.contains("NaN"));
    }

    #[test]
    fn a_soak_that_ended_at_once_is_a_page_too() {
        assert!(super::page(&Seen::default(), 1).ends_with("</html>\n"));
    }
}
