//! Figures for people: in the unit that fits, and round ticks for an axis.

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantity {
    /// In nanoseconds.
    Time,
    /// In bytes.
    Bytes,
    Count,
}

impl Quantity {
    /// Its units, from the smallest.
    fn units(self) -> &'static [(f64, &'static str)] {
        match self {
            Self::Time => &[(1.0, " ns"), (1e3, " µs"), (1e6, " ms"), (1e9, " s")],
            Self::Bytes => &[
                (1.0, " B"),
                (1024.0, " KiB"),
                (1_048_576.0, " MiB"),
                (1_073_741_824.0, " GiB"),
            ],
            Self::Count => &[(1.0, "")],
        }
    }

    /// The largest unit that `figure` fills, as a number of the smallest, and its name.
    fn unit(self, figure: f64) -> (f64, &'static str) {
        let units = self.units();
        let fits = units.iter().rev().find(|(size, _)| figure >= *size);
        *fits.unwrap_or(&units[0])
    }

    /// Three significant digits in the unit that fits: `590 ms`, `1.24 s`.
    pub(super) fn text(self, figure: u64) -> String {
        let figure = figure as f64;
        let (mut size, mut name) = self.unit(figure);
        // 999.7 ms would be rounded to 1000 ms.
        if (figure / size).round() >= 1000.0 {
            (size, name) = self.unit(size * 1024.0);
        }
        let value = figure / size;
        let digits = match value {
            _ if size == 1.0 => 0,
            value if value < 9.995 => 2,
            value if value < 99.95 => 1,
            _ => 0,
        };
        format!("{value:.digits$}{name}")
    }
}

/// Nanoseconds in the unit that fits.
pub(crate) fn time(ns: u64) -> String {
    Quantity::Time.text(ns)
}

/// An axis that begins at 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Axis {
    quantity: Quantity,
    most: f64,
    step: f64,
}

impl Axis {
    /// The axis for figures up to `most`, with about this many ticks.
    pub(super) fn up_to(quantity: Quantity, most: u64, ticks: u32) -> Self {
        let most = most.max(1) as f64;
        let (size, _) = quantity.unit(most);
        let rough = (most / f64::from(ticks.max(1))).max(1.0) / size;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = step.into_iter().find(|step| *step >= rough);
        Self {
            quantity,
            most,
            step: step.unwrap_or(rough) * size,
        }
    }

    /// Where a figure lies, from 0 to 1.
    pub(super) fn place(&self, figure: u64) -> f64 {
        figure as f64 / self.most
    }

    /// The ticks: their places, and their labels in one unit.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let (size, name) = self.quantity.unit(self.most);
        let digits = if self.step / size < 1.0 { 1 } else { 0 };
        let values = (0..).map(|count| f64::from(count) * self.step);
        values
            .take_while(|value| *value <= self.most)
            .map(|value| {
                (
                    value / self.most,
                    format!("{:.digits$}{name}", value / size),
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_three_digits_in_the_unit_that_fits() {
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
        for (bytes, text) in [(900, "900 B"), (1500, "1.46 KiB"), (5 << 30, "5.00 GiB")] {
            assert_eq!(Quantity::Bytes.text(bytes), text);
        }
        assert_eq!(Quantity::Count.text(123_456), "123456");
    }

    #[test]
    fn ticks_are_round_and_in_one_unit() {
        let labels = |quantity, most, ticks| {
            let ticks = Axis::up_to(quantity, most, ticks).ticks();
            ticks.into_iter().map(|tick| tick.1).collect::<Vec<_>>()
        };
        let time = |most| labels(Quantity::Time, most, 4);
        assert_eq!(time(590_000_000), ["0 ms", "200 ms", "400 ms"]);
        assert_eq!(time(1_600_000_000), ["0.0 s", "0.5 s", "1.0 s", "1.5 s"]);
        assert_eq!(time(0), ["0 ns", "1 ns"], "nothing was measured");
        assert_eq!(
            labels(Quantity::Bytes, 3 << 30, 3),
            ["0 GiB", "1 GiB", "2 GiB", "3 GiB"]
        );
        assert_eq!(
            labels(Quantity::Count, 40, 4),
            ["0", "10", "20", "30", "40"]
        );
    }

    #[test]
    fn every_tick_is_on_the_axis() {
        for most in [1, 7, 99, 1000, 123_456_789, u64::MAX] {
            for quantity in [Quantity::Time, Quantity::Bytes, Quantity::Count] {
                let axis = Axis::up_to(quantity, most, 5);
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
}
