//! Times for people: in the unit that fits, and round ticks for an axis.

const UNITS: [(f64, &str); 4] = [(1.0, "ns"), (1e3, "µs"), (1e6, "ms"), (1e9, "s")];

/// The largest unit that `ns` fills, as nanoseconds, and its name.
fn unit(ns: f64) -> (f64, &'static str) {
    let fits = UNITS.into_iter().rev().find(|(size, _)| ns >= *size);
    fits.unwrap_or(UNITS[0])
}

/// Nanoseconds with three significant digits in the unit that fits: `590 ms`, `1.24 s`.
pub(crate) fn time(ns: u64) -> String {
    let ns = ns as f64;
    let (mut size, mut name) = unit(ns);
    // 999.7 ms would be rounded to 1000 ms.
    if (ns / size).round() >= 1000.0 && name != "s" {
        (size, name) = unit(size * 1000.0);
    }
    let value = ns / size;
    let digits = match value {
        _ if name == "ns" => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {name}")
}

/// An axis of time that begins at 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    most_ns: f64,
    step_ns: f64,
}

impl Axis {
    /// The axis for values up to `most_ns`, with about `ticks` of them.
    pub(super) fn up_to(most_ns: u64, ticks: u32) -> Self {
        let most_ns = most_ns.max(1) as f64;
        let rough = (most_ns / f64::from(ticks.max(1))).max(1.0);
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step_ns = step.into_iter().find(|step| *step >= rough);
        Self {
            most_ns,
            step_ns: step_ns.unwrap_or(rough),
        }
    }

    /// Where a value lies, from 0 to 1.
    pub(super) fn place(&self, ns: u64) -> f64 {
        ns as f64 / self.most_ns
    }

    /// The ticks: their places, and their labels in one unit.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let (size, name) = unit(self.most_ns);
        let digits = if self.step_ns / size < 1.0 { 1 } else { 0 };
        let values = (0..).map(|count| f64::from(count) * self.step_ns);
        values
            .take_while(|value| *value <= self.most_ns)
            .map(|value| {
                let label = format!("{:.digits$} {name}", value / size);
                (value / self.most_ns, label)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_three_digits_in_the_unit_that_fits() {
        for (ns, text) in [
            (0, "0 ns"),
            (850, "850 ns"),
            (12_345, "12.3 µs"),
            (9_996_000, "10.0 ms"),
            (590_400_000, "590 ms"),
            (999_700_000, "1.00 s"),
            (1_239_000_000, "1.24 s"),
            (754_000_000_000, "754 s"),
        ] {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn ticks_are_round_and_in_one_unit() {
        let labels = |most, ticks| {
            let ticks = Axis::up_to(most, ticks).ticks();
            ticks.into_iter().map(|tick| tick.1).collect::<Vec<_>>()
        };
        let expected = ["0 ms", "200 ms", "400 ms"];
        assert_eq!(labels(590_000_000, 4), expected);
        assert_eq!(
            labels(1_600_000_000, 4),
            ["0.0 s", "0.5 s", "1.0 s", "1.5 s"]
        );
        assert_eq!(labels(0, 4), ["0 ns", "1 ns"], "nothing was measured");
    }

    #[test]
    fn every_tick_is_on_the_axis() {
        for most in [1, 7, 99, 1000, 123_456_789, u64::MAX] {
            let axis = Axis::up_to(most, 5);
            let ticks = axis.ticks();
            assert!(
                ticks.iter().all(|tick| (0.0..=1.0).contains(&tick.0)),
                "{most}"
            );
            assert!(ticks.len() <= 6, "{most}: {ticks:?}");
            assert!((axis.place(most) - 1.0).abs() < 1e-9);
        }
    }
}
