//! Seeded bugs: mistakes that are planted on purpose, so that a test can be tested.
//!
//! A harness that has never caught anything proves little. Each bug here stands in one line at its place, off unless the
//! environment variable `TIDEMILL_BUG` names it, and not even compiled without the feature `seeded-bugs`, which only tests
//! have on. `HARNESSES` says which test must fail when it is planted; `assert_all_are_caught` runs that test in a
//! process of its own, with the bug.

/// A mistake to plant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// The log reports success before its file is synced.
    AcknowledgesBeforeSync,
    /// The log reports success for a group that is still in memory.
    AcknowledgesBeforeWrite,
    /// A new name is not made durable.
    FolderNotSynced,
    /// What is in a new file is not made durable.
    FileNotSynced,
    /// A file is trusted again after a sync of it has failed.
    SyncTriedAgain,
    /// What is visible is taken for durable.
    VisibleTakenForDurable,
    /// A table does not look which epoch it has.
    TransactionNotRead,
    /// A commit whose outcome is unknown goes on with the next version.
    UnknownOutcomeSkipped,
    /// A commit is taken for done because a file of it is there.
    FileTakenForCommit,
    /// Two processes give their files the same names, and the later one writes over the earlier.
    FileNamesReused,
    /// The tables commit before the manifest is written.
    CommitBeforeDecision,
    /// The number of a manifest is written a second time.
    ManifestWrittenOver,
    /// A checkpoint does not hold where the log stood.
    OffsetForgotten,
    /// A checkpoint holds an offset that is one too high.
    OffsetTooHigh,
    /// A checkpoint holds an offset that is one too low.
    OffsetTooLow,
    /// The log shrinks to a checkpoint before that is decided.
    LogShrunkEarly,
    /// A pack is removed that a manifest names.
    NamedPackRemoved,
    /// Cleaning takes prepared files for garbage.
    PreparedFileCleaned,
    /// A watermark is that of the fastest partition.
    WatermarkIsMaximum,
    /// A window has its end in it.
    WindowEndInclusive,
    /// A late row is neither counted nor kept.
    LateRowDropped,
    /// A partition that was idle once stays idle.
    IdleForEver,
    /// A row from the future moves the watermark.
    FutureMovesWatermark,
    /// The checksum of a record is not compared.
    ChecksumNotCompared,
    /// A log goes on behind a torn tail.
    TornTailAccepted,
    /// A process that was replaced does not notice.
    ZombieGoesOn,
    /// A queue takes all that comes.
    QueueWithoutBound,
    /// A message is written without what was noted with it.
    NoteLost,
    /// What was noted with a message is written before it, as a record of its own.
    NoteApart,
    /// A checkpoint does not hold what was noted.
    NotesNotSaved,
    /// A decided commit is rolled forward over rows that the table does not have.
    RolledOverHole,
    /// A part that is named keeps its pack, however little of the pack that is.
    SparsePacksKept,
    /// Which rows leave as one piece is forgotten by a crash.
    ClaimForgotten,
    /// A count is one too high.
    CountTooHigh,
}

/// Returns whether a bug is planted.
#[cfg(not(any(test, feature = "seeded-bugs")))]
#[inline(always)]
pub const fn is_planted(_: SeededBug) -> bool {
    false
}

#[cfg(any(test, feature = "seeded-bugs"))]
pub use planted::{BUG_VARIABLE, HARNESSES, Harness, LEFT_OUT, assert_all_are_caught, is_planted};

#[cfg(any(test, feature = "seeded-bugs"))]
mod planted;
