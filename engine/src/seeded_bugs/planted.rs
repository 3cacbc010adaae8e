//! Which bug is planted, which test catches it, and how that is shown.

use std::process::Command;
use std::sync::OnceLock;

use super::SeededBug;

/// Names the bug to plant.
pub const BUG_VARIABLE: &str = "TIDEMILL_BUG";

/// Returns whether a bug is planted: in this process, from its start to its end.
pub fn is_planted(bug: SeededBug) -> bool {
    static PLANTED: OnceLock<Option<SeededBug>> = OnceLock::new();
    let planted = PLANTED.get_or_init(|| {
        let name = std::env::var(BUG_VARIABLE).ok().filter(|name| !name.is_empty())?;
        let found = HARNESSES.iter().map(|(bug, _, _)| *bug).find(|bug| format!("{bug:?}") == name);
        Some(found.unwrap_or_else(|| panic!("{BUG_VARIABLE}={name} is no bug that is known")))
    });
    *planted == Some(bug)
}

/// Where a test that catches a bug stands: which test program runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harness {
    /// The engine's own tests.
    Engine,
    /// The tests of tables.
    Connectors,
    /// Several processes on one simulated disk: `connectors/tests/protocol`.
    Protocol,
    /// The tests of the whole program.
    Whole,
}

/// For each bug the cheapest tests that catch it.
pub const HARNESSES: &[(SeededBug, Harness, &str)] = &[
    (
        SeededBug::ClaimForgotten,
        Harness::Connectors,
        "sinks::http::tests::through_kills_and_power_losses_a_key_means_the_same_bytes_and_each_row_is_taken_once",
    ),
    (
        SeededBug::ClaimForgotten,
        Harness::Connectors,
        "sinks::file::tests::through_kills_and_power_losses_each_row_is_in_one_file",
    ),
    (
        SeededBug::AcknowledgesBeforeSync,
        Harness::Engine,
        "ingest::tests::crash::what_was_synced_behind_a_checkpoint_survives_crashes_at_every_change_and_recovery_may_crash_too",
    ),
    (SeededBug::AcknowledgesBeforeSync, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::AcknowledgesBeforeWrite,
        Harness::Engine,
        "ingest::tests::crash::what_was_synced_behind_a_checkpoint_survives_crashes_at_every_change_and_recovery_may_crash_too",
    ),
    (
        SeededBug::FolderNotSynced,
        Harness::Engine,
        "storage::tests::promises::promises_hold_when_the_process_dies_at_any_call_and_the_next_one_dies_too",
    ),
    (SeededBug::FolderNotSynced, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::FileNotSynced,
        Harness::Engine,
        "storage::tests::promises::promises_hold_when_the_process_dies_at_any_call_and_the_next_one_dies_too",
    ),
    (SeededBug::FileNotSynced, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::SyncTriedAgain,
        Harness::Engine,
        "storage::tests::promises::a_file_that_failed_once_is_never_trusted_again",
    ),
    (
        SeededBug::VisibleTakenForDurable,
        Harness::Engine,
        "storage::tests::promises::promises_hold_when_the_process_dies_at_any_call_and_the_next_one_dies_too",
    ),
    (SeededBug::VisibleTakenForDurable, Harness::Protocol, TWO_PHASES),
    (SeededBug::TransactionNotRead, Harness::Connectors, "table::tests::commit::committing_twice_counts_once"),
    (SeededBug::TransactionNotRead, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::UnknownOutcomeSkipped,
        Harness::Connectors,
        "table::tests::crash_windows::a_crash_in_any_window_of_a_commit_loses_nothing_and_doubles_nothing",
    ),
    (SeededBug::UnknownOutcomeSkipped, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::FileTakenForCommit,
        Harness::Connectors,
        "table::tests::commit::a_successor_commits_what_was_prepared_unless_the_file_is_gone",
    ),
    (SeededBug::FileNamesReused, Harness::Protocol, TWO_PHASES),
    (SeededBug::CommitBeforeDecision, Harness::Engine, DECISIONS),
    (
        SeededBug::ManifestWrittenOver,
        Harness::Engine,
        "checkpoint::store::tests::a_number_is_written_once_and_a_later_process_ends_an_earlier_one",
    ),
    (SeededBug::ManifestWrittenOver, Harness::Protocol, TWO_PHASES),
    (SeededBug::OffsetForgotten, Harness::Engine, DECISIONS),
    (SeededBug::OffsetTooHigh, Harness::Engine, DECISIONS),
    (SeededBug::OffsetTooLow, Harness::Engine, DECISIONS),
    (SeededBug::LogShrunkEarly, Harness::Engine, DECISIONS),
    (
        SeededBug::NamedPackRemoved,
        Harness::Engine,
        "checkpoint::store::tests::what_a_kept_checkpoint_names_stays_and_everything_else_goes",
    ),
    (
        SeededBug::PreparedFileCleaned,
        Harness::Connectors,
        "table::tests::clean::a_process_that_was_written_off_cannot_clean_away_what_its_successor_prepared",
    ),
    (SeededBug::PreparedFileCleaned, Harness::Protocol, TWO_PHASES),
    (SeededBug::WatermarkIsMaximum, Harness::Whole, WINDOWS),
    (SeededBug::WindowEndInclusive, Harness::Whole, WINDOWS),
    (SeededBug::LateRowDropped, Harness::Whole, WINDOWS),
    (SeededBug::IdleForEver, Harness::Whole, WINDOWS),
    (SeededBug::FutureMovesWatermark, Harness::Whole, WINDOWS),
    (
        SeededBug::ChecksumNotCompared,
        Harness::Engine,
        "ingest::tests::damage::every_flipped_byte_is_found_or_in_a_tail_and_no_wrong_record_comes_out",
    ),
    (
        SeededBug::TornTailAccepted,
        Harness::Engine,
        "ingest::tests::crash::what_was_synced_behind_a_checkpoint_survives_crashes_at_every_change_and_recovery_may_crash_too",
    ),
    (
        SeededBug::ZombieGoesOn,
        Harness::Engine,
        "ingest::tests::fence::whenever_a_successor_takes_over_it_has_read_what_was_acknowledged",
    ),
    (SeededBug::ZombieGoesOn, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::QueueWithoutBound,
        Harness::Engine,
        "runtime::simulation::tests::while_the_disk_is_slow_what_waits_for_it_is_bounded",
    ),
    (SeededBug::NoteLost, Harness::Engine, NOTES),
    (SeededBug::NoteApart, Harness::Whole, "simulation::judge::tests::the_judge_sees_what_is_wrong"),
    (SeededBug::NotesNotSaved, Harness::Engine, NOTES),
    (
        SeededBug::RolledOverHole,
        Harness::Engine,
        "checkpoint::recovery::tests::model::whatever_happens_a_table_has_every_epoch_once_or_the_start_is_refused",
    ),
    (SeededBug::RolledOverHole, Harness::Protocol, TWO_PHASES),
    (
        SeededBug::SparsePacksKept,
        Harness::Engine,
        "runtime::simulation::tests::panes_that_live_long_keep_no_packs_of_others_on_the_disk",
    ),
    (SeededBug::CountTooHigh, Harness::Engine, DECISIONS),
];

/// Bugs of the studies that cannot be planted yet, and why.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("a session merge forgets its retraction", "there are no session windows"),
    (
        "ids of QoS 2 are not kept",
        "connectors have it as a test: mqtt::tests::model::the_model_sees_a_receiver_that_forgets_its_ids",
    ),
    ("DUP is taken for new", "with QoS 1 a message that comes again is new: whoever sends it wants it so"),
];

const TWO_PHASES: &str = "whatever_crashes_and_whoever_goes_on_tables_have_whole_epochs_once";
const WINDOWS: &str = "oracle::windows_equal_the_reference_model_on_2000_random_logs_with_1_2_and_4_workers";
const NOTES: &str = "runtime::tests::notes::notes_are_there_again_from_the_log_from_a_checkpoint_and_from_both";
const DECISIONS: &str =
    "runtime::tests::decisions::a_job_decides_before_it_commits_and_goes_on_where_it_stood_with_the_log_it_needs";

/// Runs each test of this test program that is to catch a bug, in a process where the bug is planted, and asserts that
/// it fails.
///
/// # Panics
/// If a test passes, is not there, or cannot be run.
pub fn assert_all_are_caught(harness: Harness) {
    let program = std::env::current_exe().expect("a test knows its program");
    let mut missed = Vec::new();
    for (bug, _, test) in HARNESSES.iter().filter(|(_, of, _)| *of == harness) {
        let output = Command::new(&program)
            .args([test, "--exact", "--nocapture"])
            .env(BUG_VARIABLE, format!("{bug:?}"))
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("a test program can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        if output.status.success() || !said.contains("1 failed") {
            missed.push(format!("{bug:?} is not caught by {test}: {}", said.lines().last().unwrap_or_default()));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seeded_bug_of_the_engine_is_caught() {
        assert_all_are_caught(Harness::Engine);
    }
}
