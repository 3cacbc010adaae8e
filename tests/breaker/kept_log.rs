//! Keeps what the program deletes: hard links to each segment of its log, for the verdict to read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Links all segments into `kept`, on the same file system. The program is down.
pub(super) fn keep(log: &Path, kept: &Path) {
    fs::create_dir_all(kept).expect("a writable folder");
    // Killed before it made its log, there is none.
    let Ok(entries) = fs::read_dir(log) else { return };
    for entry in entries {
        let segment = entry.expect("a readable folder").path();
        if segment.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let link = kept.join(segment.file_name().expect("a file has a name"));
        let inode = |path: &Path| fs::metadata(path).ok().map(|found| found.ino());
        if inode(&link) != inode(&segment) {
            // After a loss of power another file may have the same name: the old one was never durable.
            let _ = fs::remove_file(&link);
            fs::hard_link(&segment, &link).expect("a link on the same file system");
        }
    }
}
