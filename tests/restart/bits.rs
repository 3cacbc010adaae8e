//! One flipped bit anywhere in log, manifests and packs: the same tables, or a refusal that names the file.

use std::fs;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemill::assemble::{self, Folder as DataFolder, Settings, SqlFile};
use tidemill::{Error, Result};

use super::scene::{Scene, TABLES, VIEWS, assert_same, copy_folder, files, tables};
use crate::harness::folder::Folder;
use crate::harness::tables::Judge;

const SEEDS: u64 = 30;

/// Starts the pipeline in this process, lets it commit everything, and ends it.
async fn start_and_stop(data: &Path, pipeline: &Path) -> Result<()> {
    let settings = Settings { workers: 2, ..Settings::default() };
    let folder = DataFolder::open(data)?;
    let context = assemble::context(folder.storage(), &settings)?;
    let files = [SqlFile::read(pipeline)?];
    let pipeline = assemble::compile(&files, &context).expect("the pipeline is right");
    let sinks = assemble::open_sinks(&folder, &pipeline.tables, &settings)?;
    let job = assemble::start_job(&folder, pipeline.plan, sinks, Default::default(), &settings).await?;
    Ok(job.stop().await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_gives_the_same_tables_or_a_refusal_that_names_the_file() {
    // Nothing is committed, so that each start fills the tables: from the state if it can, else from the log.
    let mut scene = Scene::new(VIEWS);
    scene.set("TABLES__COMMIT", "1h");
    let program = scene.start_ready().await;
    for _ in 0..3 {
        scene.send(&program, 3).await;
        scene.checkpointed(&program).await;
    }
    program.kill9();
    let whole = scene.serve.data.clone();
    let paths: Vec<_> =
        ["log", "checkpoint"].into_iter().flat_map(|folder| files(&whole, folder).into_keys()).collect();

    let mut judge = Judge::new();
    let straight = Folder::new();
    copy_folder(&whole, &straight.join("data"));
    start_and_stop(&straight.join("data"), &scene.serve.pipeline).await.expect("nothing is wrong");
    let expected = tables(&straight.join("data"), &mut judge, &TABLES);
    assert!(TABLES.iter().all(|name| !expected[*name].is_empty()));

    let (mut same, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let mut dice = StdRng::seed_from_u64(seed);
        let path = &paths[seed as usize % paths.len()];
        let folder = Folder::new();
        let data = folder.join("data");
        copy_folder(&whole, &data);
        let mut bytes = fs::read(data.join(path)).expect("a readable file");
        let bit = dice.random_range(0..bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(data.join(path), bytes).expect("a writable file");
        let what = format!("seed {seed}: bit {bit} of {}", path.display());
        match start_and_stop(&data, &scene.serve.pipeline).await {
            Ok(()) => {
                same += 1;
                for (name, rows) in tables(&data, &mut judge, &TABLES) {
                    assert_same(&format!("{what}: {name}"), &rows, &expected[&name]);
                }
            }
            Err(error) => {
                refused += 1;
                assert!(matches!(error, Error::Environment(_)), "{what}: {error}");
                let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
                assert!(error.to_string().contains(name), "{what}: {error}");
            }
        }
    }
    assert!(same > 0 && refused > 0, "{same} the same and {refused} refused");
}
