//! What a kernel image declares to take over of a handover: the chunk `FDBx` of `kernel_info`.
//! docs/handover-abi.md defines its layout.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::image_error::ImageError;
use crate::kind::Kind;

/// The magic numbers of `kernel_info` and of the chunk.
const KERNEL_INFO_MAGIC: [u8; 4] = *b"LToP";
const CHUNK_MAGIC: [u8; 4] = *b"FDBx";
/// Magic, length, length with the chunks, `setup_type_max`.
const KERNEL_INFO_BYTES: usize = 16;
/// `SETUP_KEXEC_KHO`: the setup_data that passes a handover to a kernel. A kernel that does not
/// know it ignores it.
const SETUP_KEXEC_KHO: usize = 10;
/// A flag in `setup_type_max`.
const SETUP_INDIRECT: usize = 1 << 31;
/// Magic and length.
const CHUNK_HEADER_BYTES: usize = 8;
/// More than any kernel has.
const MAX_BYTES: usize = 64 << 10;

/// What a kernel takes over of a handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TakeOver(u32);

/// What the `kernel_info` of an image declares about handovers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct KernelInfo {
    /// Whether the kernel reads the setup_data of a handover.
    pub(super) knows_kho: bool,
    /// What it takes over; `None` if it does not say.
    pub(super) takes: Option<TakeOver>,
}

/// What a kernel may lack, and its name in messages.
const NAMES: [(TakeOver, &str); 11] = [
    (TakeOver::PCI, "keep PCI devices for vfio-pci"),
    (TakeOver::VTD, "go on translating with VT-d"),
    (TakeOver::FOLIO_RUNS, "take memfds in runs of folios"),
    (
        TakeOver::KVM_FILES,
        "let fdbox.ko make VMs and guest_memfds",
    ),
    (TakeOver::IOMMUFD_FILES, "let fdbox.ko make iommufds"),
    (TakeOver::VFIO_FILES, "let fdbox.ko open VFIO devices"),
    (TakeOver::KHO, "take any handover (CONFIG_KEXEC_HANDOVER)"),
    (TakeOver::HUGETLB, "take memfds of huge pages"),
    (
        TakeOver::VTD_SCALABLE,
        "go on translating with VT-d in scalable mode",
    ),
    (TakeOver::AMD_VI, "go on translating with AMD-Vi"),
    (
        TakeOver::PCI_BARS,
        "leave the registers of PCI devices alone",
    ),
];

impl TakeOver {
    const PCI: Self = Self(1 << 0);
    const VTD: Self = Self(1 << 1);
    const FOLIO_RUNS: Self = Self(1 << 2);
    const KVM_FILES: Self = Self(1 << 3);
    const IOMMUFD_FILES: Self = Self(1 << 4);
    const VFIO_FILES: Self = Self(1 << 5);
    const KHO: Self = Self(1 << 6);
    const HUGETLB: Self = Self(1 << 7);
    /// For devices under VT-d in scalable mode, in addition.
    pub(super) const VTD_SCALABLE: Self = Self(1 << 8);
    const AMD_VI: Self = Self(1 << 9);
    /// For devices that a guest uses while the kernel boots, in addition.
    pub(super) const PCI_BARS: Self = Self(1 << 10);

    /// Parses the kernel's report on the loaded image, such as `0x7f`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        u32::from_str_radix(text.strip_prefix("0x")?, 16)
            .map(Self)
            .ok()
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The same for a host whose IOMMU is AMD-Vi.
    pub(super) const fn under_amd_vi(self) -> Self {
        match self.0 & Self::VTD.0 {
            0 => self,
            _ => Self(self.0 & !Self::VTD.0 | Self::AMD_VI.0),
        }
    }

    /// What a kernel must take over for a descriptor of this kind to be restored, on a host whose
    /// IOMMU is VT-d in legacy mode.
    pub(super) fn needed_by(kind: Kind) -> Self {
        match kind {
            Kind::Memfd => Self::KHO.and(Self::FOLIO_RUNS),
            Kind::KvmVm => Self::KHO.and(Self::KVM_FILES),
            Kind::GuestMemfd => Self::KHO.and(Self::KVM_FILES).and(Self::FOLIO_RUNS),
            Kind::Iommufd => Self::KHO.and(Self::IOMMUFD_FILES).and(Self::VTD),
            Kind::VfioPci => Self::KHO
                .and(Self::PCI)
                .and(Self::VTD)
                .and(Self::VFIO_FILES),
            Kind::Hugetlb => Self::KHO.and(Self::HUGETLB),
            Kind::Other => Self::KHO,
        }
    }

    /// The parts of `needed` that are missing, as text.
    pub(super) fn lacks(self, needed: Self) -> Vec<&'static str> {
        let missing = needed.0 & !self.0;
        let names = NAMES.iter().filter(|(bit, _)| bit.0 & missing != 0);
        names.map(|(_, name)| *name).collect()
    }
}

fn damaged() -> ImageError {
    ImageError::Damaged("kernel_info")
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    let bytes: [u8; 4] = bytes.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

/// Reads the `kernel_info` at this offset of a kernel image.
pub(super) fn read(file: &File, at: u64) -> Result<KernelInfo, ImageError> {
    let read = |bytes: &mut [u8]| match file.read_exact_at(bytes, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged()),
        other => Ok(other?),
    };
    let mut head = [0; KERNEL_INFO_BYTES];
    read(&mut head)?;
    let total = u32_at(&head, 8).unwrap_or_default();
    if !head.starts_with(&KERNEL_INFO_MAGIC) || !(KERNEL_INFO_BYTES..=MAX_BYTES).contains(&total) {
        return Err(damaged());
    }
    let mut info = vec![0; total];
    read(&mut info)?;
    let setup_type_max = u32_at(&head, 12).unwrap_or_default();
    Ok(KernelInfo {
        knows_kho: setup_type_max & !SETUP_INDIRECT >= SETUP_KEXEC_KHO,
        takes: find(&info).ok_or_else(damaged)?,
    })
}

/// Finds the chunk in a `kernel_info`; `None` if that is damaged.
fn find(info: &[u8]) -> Option<Option<TakeOver>> {
    let chunks = u32_at(info, 4).filter(|chunks| *chunks >= KERNEL_INFO_BYTES)?;
    let mut rest = info.get(chunks..)?;
    while !rest.is_empty() {
        let bytes = u32_at(rest, 4).filter(|bytes| *bytes >= CHUNK_HEADER_BYTES)?;
        let (chunk, behind) = rest.split_at_checked(bytes)?;
        if chunk.starts_with(&CHUNK_MAGIC) {
            let bits = u32_at(chunk, CHUNK_HEADER_BYTES)?;
            return Some(Some(TakeOver(u32::try_from(bits).ok()?)));
        }
        rest = behind;
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::kexec::image::BzImage;
    use crate::kexec::testing::bzimage;

    /// A `kernel_info` of a kernel with all patches but without VT-d, written by hand from
    /// docs/handover-abi.md. Another chunk, of 3 bytes and without padding, precedes the relevant
    /// one.
    const GOLDEN: [u8; 39] = *b"LToP\x10\0\0\0\x27\0\0\0\x0a\0\0\x80\
        ABCD\x0b\0\0\0\x01\x02\x03\
        FDBx\x0c\0\0\0\x7d\0\0\0";

    fn of_image(info: &[u8]) -> Result<Option<TakeOver>, ImageError> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bzimage(Some(info))).unwrap();
        BzImage::read(&file).map(|image| image.info.takes)
    }

    fn is_damaged(info: &[u8]) -> bool {
        matches!(of_image(info), Err(ImageError::Damaged("kernel_info")))
    }

    #[test]
    fn the_chunk_is_found_behind_others() {
        assert_eq!(of_image(&GOLDEN).unwrap(), Some(TakeOver(0x7d)));
    }

    #[test]
    fn a_longer_chunk_and_unknown_bits_are_read_up_to_what_is_known() {
        let mut longer = GOLDEN.to_vec();
        longer[8] += 4;
        longer[31] += 4;
        longer[38] = 0x80;
        longer.extend(*b"more");
        let takes = of_image(&longer).unwrap().unwrap();
        assert_eq!(takes, TakeOver(0x8000_007d));
        assert_eq!(takes.lacks(TakeOver::needed_by(Kind::GuestMemfd)), [""; 0]);
    }

    #[test]
    fn an_image_without_the_chunk_says_nothing() {
        // That of Linux 7.3: no chunk at all.
        let stock = [
            b"LToP".as_slice(),
            &[16, 0, 0, 0, 16, 0, 0, 0, 10, 0, 0, 128],
        ]
        .concat();
        assert_eq!(of_image(&stock).unwrap(), None);
        let mut other = GOLDEN;
        other[30] = b'y';
        assert_eq!(of_image(&other).unwrap(), None);
        // A protocol before kernel_info, with something else at that offset.
        let mut old = bzimage(Some(&GOLDEN));
        old[0x206] = 0x0e;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&old).unwrap();
        assert_eq!(BzImage::read(&file).unwrap().info, KernelInfo::default());
    }

    #[test]
    fn a_kernel_that_knows_no_kho_is_seen() {
        for (setup_type_max, knows_kho) in [
            ([10, 0, 0, 128], true),
            ([11, 0, 0, 128], true),
            ([10, 0, 0, 0], true),
            // Linux 6.12.
            ([9, 0, 0, 128], false),
            ([0, 0, 0, 0], false),
        ] {
            let mut info = GOLDEN;
            info[12..16].copy_from_slice(&setup_type_max);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bzimage(Some(&info))).unwrap();
            let image = BzImage::read(&file).unwrap();
            assert_eq!(image.info.knows_kho, knows_kho, "{setup_type_max:?}");
        }
    }

    #[test]
    fn what_the_kernel_shows_of_the_loaded_image_is_read() {
        assert_eq!(TakeOver::parse("0x7f"), Some(TakeOver(0x7f)));
        assert_eq!(TakeOver::parse("0x0"), Some(TakeOver(0)));
        for other in ["none", "", "7f", "0x", "0x100000000", "0x-1"] {
            assert_eq!(TakeOver::parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_damaged_kernel_info_is_an_error_and_no_panic() {
        for (at, byte) in [
            (0, b'X'),  // no kernel_info
            (4, 8),     // its chunks begin in its header
            (4, 200),   // or behind it
            (8, 4),     // it is shorter than its header
            (8, 38),    // the last chunk ends behind it
            (10, 0xff), // it is larger than the image
            (20, 7),    // a chunk shorter than its header
            (20, 255),  // a chunk that ends behind it
            (23, 0xff), // the same
            (31, 8),    // the chunk that counts is too short
            (31, 13),   // or ends behind it
        ] {
            let mut info = GOLDEN;
            info[at] = byte;
            assert!(is_damaged(&info), "byte {at} as {byte}");
        }
        for len in 0..GOLDEN.len() {
            let mut info = GOLDEN[..len].to_vec();
            if len > 8 {
                info[8] = u8::try_from(len).unwrap();
            }
            // Truncation at a chunk boundary is not damage.
            assert_eq!(is_damaged(&info), ![16, 27].contains(&len), "{len} bytes");
        }
    }

    #[test]
    fn what_a_kind_needs_is_named_when_it_is_missing() {
        let takes = TakeOver(0x7d);
        let lacks = |kind| takes.lacks(TakeOver::needed_by(kind));
        for kind in [Kind::Memfd, Kind::KvmVm, Kind::GuestMemfd, Kind::Other] {
            assert_eq!(lacks(kind), [""; 0], "{kind:?}");
        }
        assert_eq!(lacks(Kind::VfioPci), ["go on translating with VT-d"]);
        let under_amd_vi = takes.lacks(TakeOver::needed_by(Kind::VfioPci).under_amd_vi());
        assert_eq!(under_amd_vi, ["go on translating with AMD-Vi"]);
        let memory = TakeOver::needed_by(Kind::Memfd);
        assert_eq!(memory.under_amd_vi(), memory);
        assert_eq!(lacks(Kind::Hugetlb), ["take memfds of huge pages"]);
        assert_eq!(
            TakeOver(0xfd).lacks(TakeOver::needed_by(Kind::Hugetlb)),
            [""; 0]
        );
        let none = TakeOver::default().lacks(TakeOver::needed_by(Kind::Other));
        assert_eq!(none, ["take any handover (CONFIG_KEXEC_HANDOVER)"]);
    }

    /// The bits are those of docs/handover-abi.md, and each kind needs those of its patches.
    #[test]
    fn every_bit_is_documented_and_has_a_name() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/handover-abi.md");
        let docs = std::fs::read_to_string(docs).unwrap();
        let (_, table) = docs.split_once("| bit | the kernel | patches |\n").unwrap();
        let table = table.split("\n\n").next().unwrap();
        for (bit, words) in [
            (TakeOver::PCI, "kept PCI devices"),
            (TakeOver::VTD, "in legacy mode"),
            (TakeOver::FOLIO_RUNS, "runs of folios"),
            (TakeOver::KVM_FILES, "VM files and guest_memfds"),
            (TakeOver::IOMMUFD_FILES, "iommufd contexts"),
            (TakeOver::VFIO_FILES, "VFIO PCI devices"),
            (TakeOver::KHO, "CONFIG_KEXEC_HANDOVER"),
            (TakeOver::HUGETLB, "huge pages"),
            (TakeOver::VTD_SCALABLE, "in scalable mode"),
            (TakeOver::AMD_VI, "with AMD-Vi"),
            (TakeOver::PCI_BARS, "BARs of kept PCI devices"),
        ] {
            let row = format!("| {} | ", bit.0.trailing_zeros());
            let row = table.lines().find(|line| line.starts_with(&row)).unwrap();
            assert!(row.contains(words), "{row}");
            assert!(NAMES.iter().any(|(named, _)| *named == bit), "{words}");
        }
        assert_eq!(
            table.lines().filter(|line| !line.starts_with("|-")).count(),
            NAMES.len()
        );
    }
}
