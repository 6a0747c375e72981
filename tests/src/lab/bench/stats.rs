//! Summaries of repeated figures.

use serde::Serialize;

/// Minimum, median and maximum of repeated figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: u64,
    pub(crate) median: u64,
    pub(crate) max: u64,
}

impl Spread {
    /// `None` if there are no figures. For an even number of them the median is the mean of the
    /// middle two.
    pub(crate) fn of(figures: impl IntoIterator<Item = u64>) -> Option<Self> {
        let mut figures: Vec<u64> = figures.into_iter().collect();
        figures.sort_unstable();
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            figures[middle - 1].midpoint(figures[middle])
        };
        Some(Self { min, median, max })
    }

    /// In milliseconds, to be read by a person: `12.3 (11.9 to 14.0)`.
    pub(crate) fn millis(&self) -> String {
        let [min, median, max] = [self.min, self.median, self.max].map(millis);
        format!("{median} ({min} to {max})")
    }
}

/// Nanoseconds as milliseconds with three significant digits.
pub(crate) fn millis(ns: u64) -> String {
    let ms = ns as f64 / 1e6;
    let digits = match ms {
        ms if ms < 1.0 => 3,
        ms if ms < 10.0 => 2,
        ms if ms < 100.0 => 1,
        _ => 0,
    };
    format!("{ms:.digits$}")
}

/// Bytes, to be read by a person.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(Spread::of([]), None);
        let spread = Spread::of([5, 1, 9]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1, 5, 9));
        assert_eq!(Spread::of([4, 1, 9, 6]).unwrap().median, 5);
        assert_eq!(Spread::of([7]).unwrap().median, 7);
        assert_eq!(Spread::of([u64::MAX, u64::MAX]).unwrap().median, u64::MAX);
    }

    #[test]
    fn figures_have_as_many_digits_as_they_deserve() {
        assert_eq!(millis(12_345), "0.012");
        assert_eq!(millis(1_234_567), "1.23");
        assert_eq!(millis(12_345_678), "12.3");
        assert_eq!(millis(1_234_567_890), "1235");
        assert_eq!(bytes(1000), "1000 B");
        assert_eq!(bytes(4096), "4.0 KiB");
        assert_eq!(bytes(4 << 20), "4.0 MiB");
        let spread = Spread::of([1_000_000, 2_000_000, 3_000_000]).unwrap();
        assert_eq!(spread.millis(), "2.00 (1.00 to 3.00)");
    }
}
