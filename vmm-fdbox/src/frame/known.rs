//! The sections that a program can read.

/// A section that a program can read.
///
/// ```
/// use vmm_fdbox::frame::KnownSection;
/// const KNOWN: [KnownSection; 2] =
///     [KnownSection::new("clock", 1, 1), KnownSection::new("serial", 1, 3)];
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownSection {
    /// Its name.
    pub name: &'static str,
    /// The oldest version that the program reads.
    pub oldest: u32,
    /// The newest version that the program reads.
    pub newest: u32,
}

impl KnownSection {
    /// A section that can be read in versions `oldest` to `newest`.
    #[must_use]
    pub const fn new(name: &'static str, oldest: u32, newest: u32) -> Self {
        Self {
            name,
            oldest,
            newest,
        }
    }
}
