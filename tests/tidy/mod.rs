//! The rules of the house that the compiler does not know: who may import whom, and what every file must be.
//!
//! Each rule stands in [`RULES`] with snippets that it must catch and snippets that it must let pass, so that a rule
//! which went blind fails by itself.

mod code;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use code::{is_word, without_comments_and_strings};

/// Modules of the engine from the bottom up; a module imports from its own layer and those above it in this list.
const ENGINE_LAYERS: &[(&str, &[&str])] = &[
    ("words", &["epoch", "error", "key", "seeded_bugs", "time"]),
    ("traits", &["clock", "decode", "expr", "sink", "source", "storage"]),
    ("pure", &["aggregate", "dedup", "plan", "watermark", "window"]),
    ("files", &["checkpoint", "fence", "ingest"]),
    ("operators", &["dataflow"]),
    ("threads", &["runtime"]),
    ("tests", &["testing"]),
];

/// Crates (by their name in code) and the only places that may import them.
const CRATE_PLACES: &[(&str, &[&str])] = &[
    (
        "timely",
        &["engine/src/dataflow", "engine/src/runtime/worker", "engine/src/runtime/bridge", "benches/", "tests/"],
    ),
    ("datafusion", &["queries/", "benches/", "tests/"]),
    ("rumqttc_v4", &["connectors/src/mqtt", "src/demo", "src/commands/verify", "tests/", "benches/"]),
    ("rumqttc_v5", &["connectors/src/mqtt", "src/demo", "tests/", "benches/"]),
    ("argon2", &["connectors/src/mqtt/listener/passwords"]),
    ("parquet", &["connectors/", "tests/", "benches/"]),
    ("arrow_avro", &["connectors/src/format/avro", "connectors/src/format/enclosed/", "connectors/src/file/"]),
    ("prost_reflect", &["connectors/src/format/protobuf"]),
    ("axum", &["connectors/src/http", "queries/", "tests/"]),
    ("opentelemetry_proto", &["connectors/src/format/telemetry", "connectors/src/http/protocols"]),
    ("clap", &["src/"]),
    ("ipnet", &["connectors/src/outgoing"]),
    ("tokio_rustls", &["connectors/src/outgoing"]),
    ("tokio_tungstenite", &["connectors/src/pull"]),
];

/// Where files may be opened without going through `Storage`.
const FILE_PLACES: &[&str] = &[
    "engine/src/storage/disk.rs",
    "connectors/src/file",
    "connectors/src/mqtt/listener/watched",
    // Of the user, not of ours: certificates and passwords, descriptions of formats.
    "connectors/src/format/schema_file.rs",
    "connectors/src/secret.rs",
    "connectors/src/tls",
    // The corpus of a fuzz target.
    "engine/src/testing/fuzz.rs",
    "queries/src/history/mod.rs",
    "src/",
    "tests/",
    "benches/",
    "examples/",
];

/// The module that asks the machine for the time and for chance, and code that measures from outside.
const CLOCK_PLACES: &[&str] = &["engine/src/clock.rs", "tests/", "benches/"];

/// Longest file: beyond it, split at a noun.
const FILE_LINES_MAX: usize = 700;

const SHORT_FILES: &str = "a file is short enough to be read";

/// Pages for people whose links must lead somewhere, beside those in `docs/`.
const PAGES: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// A file as the rules see it: its path from the top of the repository, with `/`, and its text.
struct File {
    path: String,
    text: String,
}

/// A rule, and the proof that it sees.
struct Rule {
    name: &'static str,
    /// Returns one sentence for each offence.
    check: fn(&File) -> Vec<String>,
    /// Paths and texts that the rule must catch.
    catches: &'static [(&'static str, &'static str)],
    /// Paths and texts that look similar and are fine.
    passes: &'static [(&'static str, &'static str)],
}

const RULES: &[Rule] = &[
    Rule {
        name: "engine modules import downwards only",
        check: engine_imports_downwards,
        catches: &[
            ("engine/src/window/pane.rs", "use crate::runtime::Job;"),
            ("engine/src/storage/mod.rs", "use crate::{epoch::Epoch, ingest::Log};"),
            ("engine/src/time.rs", "fn f() { crate::clock::SystemClock; }"),
            ("engine/src/ingest/seal.rs", "use super::super::dataflow::gate::Gate; use crate::dataflow::gate;"),
            ("engine/src/drawer.rs", "fn f() {}"),
        ],
        passes: &[
            ("engine/src/runtime/mod.rs", "use crate::{epoch::Epoch, plan::Plan};"),
            ("engine/src/window/pane.rs", "// use crate::runtime::Job;\nuse crate::window::WindowAssigner;"),
            ("engine/src/window/pane.rs", "#[cfg(test)]\nmod tests {\n    use crate::testing::rows;\n}"),
            ("queries/src/lib.rs", "use crate::service;"),
        ],
    },
    Rule {
        name: "a crate is imported only where it belongs",
        check: crates_in_their_places,
        catches: &[
            ("engine/src/runtime/mod.rs", "use timely::worker::Worker;"),
            ("connectors/src/lib.rs", "use datafusion::prelude::*;"),
            ("queries/src/lib.rs", "fn f() { rumqttc_v4::QoS::AtMostOnce; }"),
            ("engine/src/sink.rs", "use parquet::arrow::ArrowWriter;"),
            ("src/main.rs", "use ::datafusion::prelude::*;"),
        ],
        passes: &[
            ("engine/src/dataflow/gate.rs", "use timely::progress::Antichain;"),
            ("engine/src/runtime/worker.rs", "use timely::worker::Worker;"),
            ("queries/src/planner/mod.rs", "use datafusion::prelude::*;"),
            ("engine/src/sink.rs", "// like parquet::arrow\nlet a = \"parquet::x\"; use crate::parquet::x;"),
        ],
    },
    Rule {
        name: "files are opened only by storage, the file connector, TLS, secrets and the program",
        check: files_in_their_places,
        catches: &[
            ("connectors/src/table/log.rs", "use std::fs;"),
            ("queries/src/history.rs", "let f = std::fs::File::open(p);"),
            ("queries/src/history.rs", "use std::{fs, io};"),
            ("engine/src/ingest/mod.rs", "tokio::fs::read(p).await"),
        ],
        passes: &[
            ("engine/src/storage/disk.rs", "use std::fs;"),
            ("connectors/src/file/mod.rs", "use std::fs::File;"),
            ("connectors/src/table/log.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}"),
            ("queries/src/history.rs", "use std::{fmt, io};"),
        ],
    },
    Rule {
        name: "only clock.rs asks for the time and for chance",
        check: clock_in_its_place,
        catches: &[
            ("engine/src/runtime/mod.rs", "let now = std::time::SystemTime::now();"),
            ("connectors/src/http/mod.rs", "use std::time::{Duration, Instant};"),
            ("queries/src/service.rs", "let id = rand::random::<u64>();"),
            ("connectors/src/generate.rs", "let mut dice = rand::rng();"),
        ],
        passes: &[
            ("engine/src/clock.rs", "use std::time::SystemTime;"),
            ("connectors/src/http/mod.rs", "let limit = tokio::time::Instant::now();"),
            ("connectors/src/generate.rs", "let dice = rand::rngs::StdRng::seed_from_u64(7);"),
        ],
    },
    Rule {
        name: "every queue has a bound",
        check: queues_have_bounds,
        catches: &[
            ("engine/src/runtime/bridge.rs", "let (a, b) = tokio::sync::mpsc::unbounded_channel();"),
            ("engine/src/runtime/bridge.rs", "let (a, b) = crossbeam_channel::unbounded();"),
            ("queries/src/service.rs", "let (a, b) = std::sync::mpsc::channel();"),
        ],
        passes: &[
            ("engine/src/runtime/bridge.rs", "let (a, b) = crossbeam_channel::bounded(QUEUE_MAX);"),
            ("engine/src/plan.rs", "/// Whether the input is unbounded.\nlet unbounded_source = true;"),
            ("queries/src/service.rs", "let (a, b) = std::sync::mpsc::sync_channel(8);"),
        ],
    },
    Rule {
        name: "a file says what it is for in its first line",
        check: file_has_docs,
        catches: &[("engine/src/plan.rs", "use std::sync::Arc;\n//! late"), ("tests/tidy/mod.rs", "")],
        passes: &[("engine/src/plan.rs", "//! The plan.\n")],
    },
    Rule {
        name: SHORT_FILES,
        check: file_is_short,
        // The snippets are repeated FILE_LINES_MAX times by the test: too long beside just short enough.
        catches: &[("engine/src/plan.rs", "//! x\n\n")],
        passes: &[("engine/src/plan.rs", "//")],
    },
    Rule {
        name: "letters beyond ASCII stand only in comments and strings",
        check: code_is_ascii,
        catches: &[("src/main.rs", "let größe = 1;"), ("src/main.rs", "let a = b\u{a0}+ c;")],
        passes: &[("src/main.rs", "// größe\nlet a = \"µs\"; let b = 'µ'; let c = r#\"→ \" →\"#; /* ─ /* ─ */ ─ */")],
    },
    Rule {
        name: "no path of the machine it was written on",
        check: no_machine_paths,
        catches: &[
            ("README.md", concat!("see /wo", "rk/notes.md")),
            ("check", concat!("cd /ro", "ot/project")),
            ("src/main.rs", concat!("// the study in ../sha", "red/x.md")),
        ],
        passes: &[("README.md", "a framework/tool, the root/leaf, `--data ./data`")],
    },
    Rule {
        name: "links and paths in the pages lead somewhere",
        check: links_lead_somewhere,
        catches: &[
            ("README.md", "[map](NOWHERE.md)"),
            ("ARCHITECTURE.md", "the gate, `engine/src/nowhere.rs`, holds rows"),
        ],
        passes: &[("README.md", "[map](Cargo.toml#top) [site](https://example.com) `tests/main.rs` `engine/src/`")],
    },
];

#[test]
fn the_house_keeps_its_rules() {
    let files = files_of_the_house();
    assert!(files.iter().any(|file| file.path == "engine/src/epoch.rs"), "the walk misses the sources");
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|file| {
            RULES.iter().flat_map(move |rule| {
                (rule.check)(file).into_iter().map(move |what| format!("{}: {what}  [{}]", file.path, rule.name))
            })
        })
        .collect();
    assert!(complaints.is_empty(), "{} offences:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_rule_catches_what_it_forbids_and_passes_what_it_allows() {
    for rule in RULES {
        assert!(!rule.catches.is_empty() && !rule.passes.is_empty(), "{} proves nothing", rule.name);
        let repeated = if rule.name == SHORT_FILES { FILE_LINES_MAX } else { 1 };
        for (expected, snippets) in [(true, rule.catches), (false, rule.passes)] {
            for (path, text) in snippets {
                let file = File { path: (*path).to_owned(), text: text.repeat(repeated) };
                let found = (rule.check)(&file);
                assert_eq!(!found.is_empty(), expected, "{}: {path}: {text:?} gives {found:?}", rule.name);
            }
        }
    }
}

#[test]
fn the_manifests_keep_heavy_crates_in_their_packages() {
    let forbidden: &[(&str, &[&str])] = &[
        ("engine/Cargo.toml", &["datafusion", "parquet", "axum", "rumqttc", "tidemill-connectors", "tidemill-queries"]),
        ("connectors/Cargo.toml", &["datafusion", "timely", "tidemill-queries"]),
        ("queries/Cargo.toml", &["timely", "rumqttc"]),
    ];
    for (manifest, crates) in forbidden {
        let text = fs::read_to_string(top().join(manifest)).expect("a manifest");
        let dependencies = text.split("[dependencies]").nth(1).expect("dependencies").split("\n[").next().unwrap();
        for name in *crates {
            let found = dependencies.lines().find(|line| line.starts_with(name));
            assert_eq!(found, None, "{manifest} must not depend on {name}");
        }
    }
}

fn engine_imports_downwards(file: &File) -> Vec<String> {
    let Some(inside) = file.path.strip_prefix("engine/src/") else { return Vec::new() };
    let module = inside.split(['/', '.']).next().expect("a path has a first part");
    if module == "lib" {
        return Vec::new();
    }
    let layer_of = |name: &str| ENGINE_LAYERS.iter().position(|(_, modules)| modules.contains(&name));
    let Some(own) = layer_of(module) else {
        return vec![format!("module {module} has no layer: give it one in tests/tidy/mod.rs")];
    };
    imported_modules(&production_code(file))
        .into_iter()
        .filter_map(|other| {
            let layer = layer_of(&other)?;
            (layer > own).then(|| {
                format!("{module} ({}) imports {other} ({}), upwards", ENGINE_LAYERS[own].0, ENGINE_LAYERS[layer].0)
            })
        })
        .collect()
}

/// Returns the names that follow `crate::`, also those in braces.
fn imported_modules(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(is_word) {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0usize;
            let mut word = String::new();
            let mut takes = true;
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && takes && is_word(c) {
                    word.push(c);
                } else if !word.is_empty() {
                    modules.insert(std::mem::take(&mut word));
                    takes = false;
                }
                takes |= depth == 0 && c == ',';
            }
            modules.extend((!word.is_empty()).then_some(word));
        } else {
            modules.insert(rest.chars().take_while(|c| is_word(*c)).collect());
        }
    }
    modules
}

fn crates_in_their_places(file: &File) -> Vec<String> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let code = production_code(file);
    CRATE_PLACES
        .iter()
        .filter(|(name, places)| !stands_in(file, places) && mentions(&code, &format!("{name}::")))
        .map(|(name, places)| format!("{name} may be imported only in {}", places.join(", ")))
        .collect()
}

fn files_in_their_places(file: &File) -> Vec<String> {
    if !file.path.ends_with(".rs") || stands_in(file, FILE_PLACES) {
        return Vec::new();
    }
    let code = production_code(file);
    let grouped = mentions_in_group(&code, "std::{", "fs");
    let offends = grouped || mentions(&code, "std::fs") || mentions(&code, "tokio::fs");
    Vec::from_iter(offends.then(|| "opens files itself; go through `Storage`".to_owned()))
}

fn clock_in_its_place(file: &File) -> Vec<String> {
    if !file.path.ends_with(".rs") || stands_in(file, CLOCK_PLACES) {
        return Vec::new();
    }
    let code = production_code(file);
    let offends = mentions(&code, "SystemTime")
        || mentions(&code, "std::time::SystemTime")
        || mentions(&code, "std::time::Instant")
        || mentions_in_group(&code, "std::time::{", "Instant")
        || mentions(&code, "rand::random")
        || mentions(&code, "rand::rng()");
    Vec::from_iter(offends.then(|| "asks the machine for time or chance; take a `Clock` or `Dice`".to_owned()))
}

fn queues_have_bounds(file: &File) -> Vec<String> {
    if !file.path.ends_with(".rs") || stands_in(file, &["tests/", "benches/"]) {
        return Vec::new();
    }
    let code = production_code(file);
    ["unbounded_channel", "unbounded()", "unbounded::", "std::sync::mpsc::channel"]
        .iter()
        .filter(|call| code.match_indices(**call).any(|(at, _)| !code[..at].ends_with(is_word)))
        .map(|call| format!("{call} makes a queue without a bound"))
        .collect()
}

fn file_has_docs(file: &File) -> Vec<String> {
    let offends = file.path.ends_with(".rs") && !file.text.starts_with("//! ");
    Vec::from_iter(offends.then(|| "begins without a `//!` sentence".to_owned()))
}

fn file_is_short(file: &File) -> Vec<String> {
    let lines = file.text.lines().count();
    let offends = file.path.ends_with(".rs") && lines > FILE_LINES_MAX;
    Vec::from_iter(offends.then(|| format!("has {lines} lines, more than {FILE_LINES_MAX}: split it at a noun")))
}

fn code_is_ascii(file: &File) -> Vec<String> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let code = without_comments_and_strings(&file.text);
    code.lines()
        .enumerate()
        .filter_map(|(line, text)| text.chars().find(|c| !c.is_ascii()).map(|c| (line + 1, c)))
        .map(|(line, c)| format!("line {line}: {c:?} in code"))
        .collect()
}

fn no_machine_paths(file: &File) -> Vec<String> {
    // Put together here, so that this file does not offend.
    let needles =
        [["/wo", "rk/"], ["/ro", "ot/"], ["/Use", "rs/"], ["/ho", "me/"], ["../sha", "red"]].map(|p| p.concat());
    let offends =
        |line: &str, needle: &String| line.match_indices(needle).any(|(at, _)| !line[..at].ends_with(is_word));
    (file.text.lines().enumerate())
        .filter(|(_, line)| needles.iter().any(|needle| offends(line, needle)))
        .map(|(number, line)| format!("line {}: {}", number + 1, line.trim()))
        .collect()
}

fn links_lead_somewhere(file: &File) -> Vec<String> {
    if !PAGES.contains(&file.path.as_str()) && !file.path.starts_with("docs/") {
        return Vec::new();
    }
    let folder = std::path::Path::new(&file.path).parent().expect("a page lies in a folder");
    let links = file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let links = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
    // As whoever shows the page follows them: from where it lies.
    let links = links.map(|link| (link, top().join(folder)));
    let packages = ["engine/", "connectors/", "queries/", "tests/", "benches/", "examples/", "src/"];
    let paths = file.text.split('`').skip(1).step_by(2);
    let paths = paths.filter(|path| packages.iter().any(|package| path.starts_with(package)));
    let paths = paths.filter(|path| !path.contains([' ', '*', '{', '<']));
    let paths = paths.map(|path| (path, top()));
    (links.chain(paths))
        .filter_map(|(target, from)| {
            let target = target.split('#').next().expect("split gives one part at least");
            (!from.join(target).exists()).then(|| format!("{target} does not exist"))
        })
        .collect()
}

/// Whether a file lies below one of the places: a folder, a file, or a name that begins so.
fn stands_in(file: &File, places: &[&str]) -> bool {
    places.iter().any(|place| file.path.starts_with(place))
}

/// Whether a path of names stands in the code, not as the tail of a longer path or name.
fn mentions(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(at, _)| {
        let after = code[at + name.len()..].chars().next();
        let inner_before = code[..at].strip_suffix("::").unwrap_or(&code[..at]);
        let is_tail = inner_before.ends_with(is_word) && !inner_before.ends_with("use");
        let is_head = !name.ends_with([':', ')']) && after.is_some_and(is_word);
        !is_tail && !is_head
    })
}

/// Whether a name stands directly in the braces that follow `opening`.
fn mentions_in_group(code: &str, opening: &str, name: &str) -> bool {
    code.match_indices(opening).any(|(at, _)| {
        let group = &code[at + opening.len()..];
        let group = &group[..group.find(';').unwrap_or(group.len())];
        group.split([',', '{', '}']).any(|part| part.trim().split("::").next() == Some(name))
    })
}

/// Returns the code that ships: without comments and strings, and without the test module that ends a file.
fn production_code(file: &File) -> String {
    let name = file.path.rsplit('/').next().expect("a path has a last part");
    if name == "tests.rs" || file.path.contains("/tests/") {
        return String::new();
    }
    let code = without_comments_and_strings(&file.text);
    let tests = code.match_indices("#[cfg(test)]").find(|(at, mark)| {
        let after = code[at + mark.len()..].trim_start();
        after.starts_with("mod ") && after.find('{').is_some_and(|brace| !after[..brace].contains(';'))
    });
    match tests {
        Some((at, _)) => code[..at].to_owned(),
        None => code,
    }
}

fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all text that people wrote: sources, pages, scripts, data of the tests.
fn files_of_the_house() -> Vec<File> {
    let mut files = Vec::new();
    let mut folders = vec![top()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                // A corpus is bytes for a fuzzer, not text.
                let others = ["target", "data", "demo-data", "__pycache__", "node_modules", "corpus"];
                if !others.contains(&name.as_str()) && (!name.starts_with('.') || name == ".ci") {
                    folders.push(path);
                }
            } else if is_written_by_people(&name) {
                let text = fs::read_to_string(&path).expect("UTF-8 text");
                files.push(File { path: relative(&path), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn is_written_by_people(name: &str) -> bool {
    let known = ["rs", "md", "toml", "py", "sql", "case", "sh", "txt", "conf", "yml"];
    match name.rsplit_once('.') {
        Some((_, extension)) => known.contains(&extension),
        None => name != "LICENSE",
    }
}

fn relative(path: &Path) -> String {
    let inside = path.strip_prefix(top()).expect("below the top");
    inside.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}
