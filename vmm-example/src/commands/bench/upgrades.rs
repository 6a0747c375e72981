//! Upgrades of this VMM to itself, under guests that are booted for this purpose.

use std::env::current_exe;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::{BinaryUpgrade, Spread};
use crate::cli::BenchArgs;
use crate::service::api::Client;
use crate::service::api::protocol::{Request, ShutdownRequest};
use crate::service::report::ResumeReport;
use crate::spec::MemoryKind;

/// The name of guest, box and files.
const NAME: &str = "vmm-example-bench";
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often to check whether a VMM is listening.
const LOOK: Duration = Duration::from_millis(10);

pub(super) fn measure(args: &BenchArgs, kernel: &Path) -> anyhow::Result<Vec<BinaryUpgrade>> {
    let mut rows = Vec::new();
    for &ram_mib in &args.ram {
        for kind in [MemoryKind::GuestMemfd, MemoryKind::Memfd] {
            let what = format!("{ram_mib} MiB of {kind}");
            eprintln!("{} upgrades under {what}", args.repeats);
            let guest = Guest::boot(args, kernel, ram_mib, kind)?;
            let blackouts: anyhow::Result<Vec<u64>> =
                (0..args.repeats).map(|_| guest.upgrade()).collect();
            let blackouts = blackouts.with_context(|| format!("Upgrade under {what}"))?;
            rows.extend(Spread::of(blackouts).map(|blackout_ns| BinaryUpgrade {
                ram_mib,
                ram_kind: kind.to_string(),
                blackout_ns,
                qemu_cpr_transfer_ns: None,
                runs: args.repeats,
            }));
        }
    }
    Ok(rows)
}

/// A guest and its files. Both are removed on drop.
struct Guest {
    /// The VMM that booted it, which ends with the first upgrade.
    first: Child,
    dir: PathBuf,
}

impl Guest {
    fn boot(
        args: &BenchArgs,
        kernel: &Path,
        ram_mib: u64,
        kind: MemoryKind,
    ) -> anyhow::Result<Self> {
        let dir = PathBuf::from(format!("/run/{NAME}.{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("Cannot make {}", dir.display()))?;
        let mut run = Command::new(current_exe()?);
        run.arg("run").arg("--kernel").arg(kernel);
        if let Some(initramfs) = &args.initramfs {
            run.arg("--initramfs").arg(initramfs);
        }
        run.arg("--memory")
            .arg(format!("size={ram_mib}M,kind={kind}"));
        let hidden = args.cpuid.hide_cpuid.iter();
        run.args(hidden.map(|bits| format!("--hide-cpuid={bits}")));
        run.args(["--name", NAME])
            .arg("--api-socket")
            .arg(dir.join("api"));
        let console = format!("file={}", dir.join("console").display());
        run.args(["--console", &console]).stdin(Stdio::null());
        let first = run.spawn();
        if first.is_err() {
            // The directory is still empty.
            let _ = fs::remove_dir(&dir);
        }
        let mut guest = Self {
            first: first.context("Cannot run the VMM")?,
            dir,
        };
        guest.wait_for_api()?;
        sleep(Duration::from_secs(args.settle));
        ensure!(
            guest.first.try_wait()?.is_none(),
            "The guest ended by itself: name a kernel and an initramfs that stay up for {} s and longer",
            args.settle
        );
        Ok(guest)
    }

    fn api(&self) -> PathBuf {
        self.dir.join("api")
    }

    fn wait_for_api(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = Client::connect(&self.api()) {
            if let Some(status) = self.first.try_wait()? {
                bail!("The VMM ended with {status}: see its message above");
            }
            ensure!(Instant::now() < deadline, "{error}");
            sleep(LOOK);
        }
        Ok(())
    }

    /// Hands the guest over to a new process of this binary, and returns the blackout.
    fn upgrade(&self) -> anyhow::Result<u64> {
        let report = self.dir.join("report");
        let binary = current_exe()?;
        let mut update = Command::new(&binary);
        update
            .arg("live-update")
            .arg("--api-socket")
            .arg(self.api());
        update
            .arg("--binary")
            .arg(&binary)
            .arg("--report")
            .arg(&report);
        let output = update.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("live-update ended with {}: {}", output.status, text.trim());
        }
        let report: ResumeReport = serde_json::from_slice(&fs::read(report)?)?;
        let blackout = report.blackout().context("The report has no blackout")?;
        Ok(blackout.total_ns)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Ask whichever VMM has the guest now; if there is none, nothing is left to do.
        if let Ok(mut client) = Client::connect(&self.api()) {
            let asked = client.ask(
                &Request::Shutdown(ShutdownRequest { timeout: Some(0) }),
                |_| {},
            );
            if asked.is_ok() {
                client.wait_for_end();
            }
        }
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::InvalidInput;
        if let Err(error) = self.first.kill()
            && !gone(&error)
        {
            eprintln!("The VMM {} stays: {error}", self.first.id());
        }
        // It has been killed or has exited.
        let _ = self.first.wait();
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{} stays: {error}", self.dir.display());
        }
    }
}
