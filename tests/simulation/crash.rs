//! Crash at every sync.

use super::judge::verdict;
use super::life::{End, Settings, live};
use super::scenario::Script;
use super::world::World;
use tidemill::engine::storage::SimulatedDisk;

#[test]
fn a_life_without_an_accident_is_right() {
    for workers in 1..=3 {
        let (disk, world, script) = (SimulatedDisk::new(7), World::new(), Script::new(7, 60));
        let life = live(&disk, &world, &script, &Settings::small(7, workers), None);
        assert!(matches!(life.end, End::Stopped), "{life:?}");
        let seen = verdict(&disk, &world.past(), &script);
        println!("{workers}: {seen:?} {} calls {} syncs {:x}", disk.calls(), disk.syncs(), life.trace_hash);
        seen.unwrap();
    }
}
