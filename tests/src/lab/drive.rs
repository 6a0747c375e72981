//! A drive of the host and what a guest left on it: an image file that outlives every kernel.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use fdbox_lab::device;
use fdbox_lab::disk::{BLOCK_BYTES, Layout};
use fdbox_lab::witness::DiskIo;

/// The size of each image.
const BYTES: u64 = 4 << 20;
/// How many bad blocks are described.
const EXAMPLES: usize = 8;

/// The result of checking the image of a drive.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checked {
    pub(crate) blocks: u64,
    pub(crate) bad: u64,
    pub(crate) examples: Vec<String>,
}

/// The image of drive `number`, in a run's folder.
pub(crate) fn image(dir: &Path, number: u8) -> PathBuf {
    dir.join(format!("disk{number}.img"))
}

/// The image of the host's NVMe drive, in a run's folder.
pub(crate) const NVME_IMAGE: &str = "nvme.img";

/// The image of the drive that completes few requests per second.
pub(crate) const SLOW_IMAGE: &str = "slow.img";

/// The path of the NVMe drive's image.
pub(crate) fn nvme_image(dir: &Path) -> PathBuf {
    dir.join(NVME_IMAGE)
}

/// How long a request of the other one takes, and how large it is: no block is read twice, whose second time would
/// be the host's page cache's.
const LATENCY_NS: u32 = 5_000_000;
const LATENT_BYTES: u64 = 1 << 30;

/// Two drives for tests of slow storage. One exhausts its burst within a second and then completes
/// only few requests per second, but no boot reads that much from it; the other completes each
/// request after a delay.
pub(crate) fn slow() -> [String; 8] {
    [
        "-drive".to_owned(),
        format!(
            "if=none,id=slow,format=raw,file=/lab/run/{},throttling.iops-total={},\
             throttling.iops-total-max={SLOW_BURST}",
            SLOW_IMAGE,
            device::SLOW_REQUESTS_PER_SECOND
        ),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive=slow,serial={}", device::SLOW_DRIVE),
        "-blockdev".to_owned(),
        format!(
            "driver=null-co,node-name=latent,size={LATENT_BYTES},read-zeroes=on,latency-ns={LATENCY_NS}"
        ),
        "-device".to_owned(),
        format!(
            "virtio-blk-pci,drive=latent,serial={}",
            device::LATENT_DRIVE
        ),
    ]
}

/// Requests that the slow drive completes at once after a pause.
const SLOW_BURST: u32 = 20;

/// Creates an empty image.
pub(crate) fn make(path: &Path) -> Result<()> {
    let made = File::create(path).and_then(|file| file.set_len(BYTES));
    made.with_context(|| format!("Make {}", path.display()))
}

/// Checks the file system in an image, which was unmounted.
pub(crate) fn check_file_system(image: &Path) -> Result<()> {
    let checked = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(image)
        .output();
    let checked = checked.context("Run e2fsck")?;
    ensure!(
        checked.status.success(),
        "The file system of {}, by e2fsck: {}\n{}",
        image.display(),
        checked.status,
        String::from_utf8_lossy(&checked.stdout)
    );
    Ok(())
}

/// Compares an image with what a guest reports to have written, block by block.
pub(crate) fn check(image: &Path, guest: &DiskIo) -> Result<Checked> {
    let file = File::open(image).with_context(|| format!("Open {}", image.display()))?;
    let layout = Layout::new(guest.seed, BYTES).context("An image of some blocks")?;
    let mut checked = Checked {
        blocks: 0,
        bad: 0,
        examples: Vec::new(),
    };
    let mut block = [0; BLOCK_BYTES];
    for (place, number) in layout.written(guest.writes) {
        file.read_exact_at(&mut block, place * BLOCK_BYTES as u64)
            .with_context(|| format!("Read {}", image.display()))?;
        checked.blocks += 1;
        if let Err(what) = layout.check(number, &block) {
            checked.bad += 1;
            if checked.examples.len() < EXAMPLES {
                checked.examples.push(what);
            }
        }
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_is_damaged_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path(), 0);
        make(&path).unwrap();
        let mut mke2fs = Command::new("mke2fs");
        let made = mke2fs.args(["-q", "-t", "ext4"]).arg(&path).output();
        assert!(made.unwrap().status.success());
        check_file_system(&path).unwrap();
        // Bitmaps and inodes are near the beginning.
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 8192], 8192).unwrap();
        let error = check_file_system(&path).unwrap_err().to_string();
        assert!(error.contains("e2fsck"), "{error}");
    }

    #[test]
    fn an_image_is_checked_against_the_number_of_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = image(dir.path(), 0);
        make(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let layout = Layout::new(5, BYTES).unwrap();
        let mut block = [0; BLOCK_BYTES];
        for number in 1..=1500 {
            layout.fill(number, &mut block);
            let place = layout.place(number) * BLOCK_BYTES as u64;
            file.write_all_at(&block, place).unwrap();
        }
        let guest = |writes| DiskIo {
            seed: 5,
            writes,
            ..DiskIo::default()
        };
        let checked = check(&path, &guest(1500)).unwrap();
        assert_eq!((checked.blocks, checked.bad), (1024, 0));
        // A block that the guest wrote and the image lacks.
        let checked = check(&path, &guest(1501)).unwrap();
        assert_eq!(checked.bad, 1, "{:?}", checked.examples);
    }
}
