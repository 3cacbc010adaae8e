//! Power loss under load, on a real file system: whatever was not synced is gone, and what was acknowledged is not.
//!
//! The data folder lies on an ext4 of its own, in a file. The program is held with SIGSTOP, the file system is shut down
//! as if its disk had lost power, the program is killed, and the file system is mounted again: its journal is replayed,
//! and the page cache is lost. Half of the losses hit a program that recovers from a kill -9: what it replays may never
//! have reached the disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::Load;
use crate::harness::folder::Folder;
use crate::harness::program::signal;
use crate::harness::wait::eventually;

const LOSSES: u32 = 6;
const DISK_BYTES: &str = "400M";
/// The kernel lets go of a file system only when the last file of a killed process is closed.
const UNMOUNT_MAX: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn power_losses_under_load_lose_nothing_that_was_acknowledged() {
    let seed = std::env::var("TIDEMILL_SEED").map_or(1, |seed| seed.parse().expect("TIDEMILL_SEED is a number"));
    let losses = std::env::var("TIDEMILL_LOSSES").map_or(LOSSES, |losses| losses.parse().expect("a number"));
    eprintln!("power loss: TIDEMILL_SEED={seed} TIDEMILL_LOSSES={losses}");
    let mut dice = StdRng::seed_from_u64(seed);
    let folder = Folder::new();
    let disk = match Disk::make(&folder) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("\n*** NOT PROVEN HERE: power loss needs root, loop devices and xfs_io: {why}\n");
            return;
        }
    };
    let load = Load::begin(&folder, Some(disk.mounted_at.join("data")), seed);
    for loss in 0..losses {
        let mut program = load.serve.start();
        if loss % 2 == 0 {
            program.ready().await;
        } else {
            tokio::time::sleep(Duration::from_millis(dice.random_range(0..600))).await;
            program.kill9();
            program = load.serve.start();
        }
        tokio::time::sleep(Duration::from_millis(dice.random_range(100..1_500))).await;
        signal("STOP", program.pid());
        disk.lose_power();
        program.kill9();
        disk.mount_again().await;
    }
    let offences = load.end().await;
    assert!(offences.is_empty(), "TIDEMILL_SEED={seed}:\n{}", offences.join("\n"));
}

/// An ext4 in a file.
struct Disk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Disk {
    fn make(folder: &Folder) -> Result<Disk, String> {
        let disk = Disk { image: folder.join("disk.ext4"), mounted_at: folder.join("disk") };
        std::fs::create_dir(&disk.mounted_at).expect("a writable folder");
        run("xfs_io", &["-V".as_ref()])?;
        run("truncate", &["-s".as_ref(), DISK_BYTES.as_ref(), &disk.image])?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &disk.image])?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, &self.mounted_at])
    }

    /// Nothing reaches the disk any more; its log is not flushed.
    fn lose_power(&self) {
        run("xfs_io", &["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), &self.mounted_at]).expect("a shutdown");
    }

    async fn mount_again(&self) {
        eventually("the dead file system is unmounted", UNMOUNT_MAX, async || run("umount", &[&self.mounted_at]).ok())
            .await;
        self.mount().expect("the journal can be replayed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failed test's program may still be there. Unmounted already is fine, too.
        let _ = run("umount", &["-l".as_ref(), &self.mounted_at]);
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let said = |output: Output| String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{program}: {}", said(output))),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
