//! A disk that can lose its power, or be full: an ext4 of its own, in a file.
//!
//! `xfs_io shutdown` stops the file system as if its disk had lost power; mounted again, its journal is replayed, and
//! whatever was in the page cache only is gone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use super::folder::Folder;
use super::program::{Program, signal};
use super::wait::eventually;

/// Enough for the program and its reserve, and full in a moment.
pub(crate) const SMALL: &str = "60M";
/// The kernel lets go of a file system only when the last file of a killed process is closed.
const UNMOUNT_MAX: Duration = Duration::from_secs(30);

/// An ext4 in a file.
pub(crate) struct Disk {
    image: PathBuf,
    /// Its folder.
    pub(crate) mounted_at: PathBuf,
}

impl Disk {
    /// Makes and mounts one; an error says what this machine lacks.
    pub(crate) fn make(folder: &Folder, bytes: &str) -> Result<Disk, String> {
        let disk = Disk { image: folder.join("disk.ext4"), mounted_at: folder.join("disk") };
        std::fs::create_dir(&disk.mounted_at).expect("a writable folder");
        run("xfs_io", &["-V".as_ref()])?;
        run("truncate", &["-s".as_ref(), bytes.as_ref(), &disk.image])?;
        run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &disk.image])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Makes one that is to be full; `None` where this machine cannot, which is said aloud.
    pub(crate) fn to_fill(folder: &Folder, bytes: &str) -> Option<Disk> {
        Disk::for_proof(folder, bytes, "a full disk needs root and loop devices")
    }

    /// Makes one that is to lose its power; `None` where this machine cannot, which is said aloud.
    pub(crate) fn to_lose_power(folder: &Folder, bytes: &str) -> Option<Disk> {
        Disk::for_proof(folder, bytes, "a loss of power needs root, loop devices and xfs_io")
    }

    fn for_proof(folder: &Folder, bytes: &str, needs: &str) -> Option<Disk> {
        Disk::make(folder, bytes).inspect_err(|why| eprintln!("\n*** NOT PROVEN HERE: {needs}: {why}\n")).ok()
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o".as_ref(), "loop".as_ref(), &self.image, &self.mounted_at])
    }

    /// Takes all the room there is, until what is returned is dropped.
    pub(crate) fn fill(&self) -> Ballast {
        let ballast = Ballast(self.mounted_at.join("ballast"));
        let mut file = std::fs::File::create(&ballast.0).expect("a name on the disk");
        for piece_bytes in [1 << 20, 4 << 10] {
            let piece = vec![0; piece_bytes];
            while file.write_all(&piece).is_ok() {}
        }
        ballast
    }

    /// Nobody may write to it until it is mounted again. Nobody may have a file open to write to.
    pub(crate) fn allow_reading_only(&self) {
        run("mount", &["-o".as_ref(), "remount,ro".as_ref(), &self.mounted_at]).expect("nobody writes");
    }

    /// Nothing reaches the disk any more; its log is not flushed.
    pub(crate) fn lose_power(&self) {
        run("xfs_io", &["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), &self.mounted_at]).expect("a shutdown");
    }

    /// Takes the power away from a program that uses it, and gives it back once the program is dead.
    pub(crate) async fn strike(&self, program: Program) {
        // Held first: a program that sees its disk fail could end by itself, and that is another fault.
        signal("STOP", program.pid());
        self.lose_power();
        let ended = program.kill9();
        assert!(ended.code().is_none(), "the program ended by itself: {ended}");
        self.mount_again().await;
    }

    /// Power is back. Nobody may have a file open.
    pub(crate) async fn mount_again(&self) {
        eventually("the dead file system is unmounted", UNMOUNT_MAX, async || run("umount", &[&self.mounted_at]).ok())
            .await;
        self.mount().expect("the journal can be replayed");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failed test keeps the image, which can be mounted; lazily, since its program may still be there. Unmounted
        // already is fine, too.
        let _ = run("umount", &["-l".as_ref(), &self.mounted_at]);
    }
}

/// A file that takes room until it is dropped.
pub(crate) struct Ballast(PathBuf);

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
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
