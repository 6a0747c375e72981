//! Random choices that can be repeated.

/// A generator of them: SplitMix64.
#[derive(Debug)]
pub struct Choices(u64);

impl Choices {
    pub fn from(seed: u64) -> Self {
        Self(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number().checked_rem(end).unwrap_or(0)
    }

    /// Whether this is one of `count` times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of several, of which there is at least one.
    pub fn one_of<'a, T>(&mut self, several: &'a [T]) -> &'a T {
        let index = self.below(several.len() as u64);
        &several[usize::try_from(index).unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_repeatable_and_take_everything() {
        let all = [1, 2, 3, 4, 5];
        let chosen = |seed| {
            let mut choices = Choices::from(seed);
            let chosen = (0..100).map(|_| *choices.one_of(&all));
            chosen.collect::<Vec<_>>()
        };
        assert_eq!(chosen(1), chosen(1));
        assert_ne!(chosen(1), chosen(2));
        assert!(all.iter().all(|one| chosen(1).contains(one)));
    }

    #[test]
    fn a_number_is_below_its_limit() {
        let mut choices = Choices::from(7);
        assert!((0..100).all(|_| choices.below(3) < 3));
        assert_eq!(choices.below(0), 0);
        assert!(choices.one_in(1));
    }
}
