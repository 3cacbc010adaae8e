//! The catalog file: which tables a data folder has, for those who ask without a server.
//!
//! ```text
//!   DIR/catalog.json
//!   {"version":2,
//!    "tables":[{"name":"room_5s","location":"tables/room_5s",
//!               "columns":[{"name":"window_start","type":"Timestamp(µs, \"UTC\")","nullable":false}, …]}]}
//!   {"crc32c":"0a1b2c3d"}
//! ```
//! The last line is the checksum of everything before it, so that no flipped bit leads a question to another table or
//! another type. A file of version 1 has none.
//!
//! A location is relative to the data folder where it lies inside, so that the folder can be moved. The columns serve
//! a table that has no commit yet; afterwards the table itself knows them. The server writes the file when it starts,
//! whole and durable; a data folder without it is read by looking into `tables/`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use tidemill_engine::storage::{Storage, StorageError};

use super::{HistoryError, TableLocation};

/// The name of the file within the data folder.
pub const CATALOG_FILE: &str = "catalog.json";
/// The version of the format that this program writes, and the newest that it reads.
const VERSION: u32 = 2;
/// The first version with a checksum.
const CHECKSUM_SINCE: u32 = 2;

/// The tables of a data folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    version: u32,
    /// The tables, by name.
    pub tables: Vec<CatalogTable>,
}

/// One table of a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogTable {
    /// The name, as a question says it.
    pub name: String,
    /// The folder: relative to the data folder, or absolute if it lies elsewhere.
    pub location: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<Column>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
}

impl Catalog {
    /// Lists tables as they lie seen from a data folder.
    pub fn new<'a>(tables: impl IntoIterator<Item = &'a TableLocation>, data_dir: &Path) -> Self {
        let tables = tables.into_iter().map(|table| CatalogTable::new(table, data_dir)).collect();
        Catalog { version: VERSION, tables }
    }

    /// Writes the file, replacing the one that was there. `storage` is the data folder.
    pub fn write(&self, storage: &dyn Storage) -> Result<(), StorageError> {
        let mut text = serde_json::to_string_pretty(self).expect("a catalog is texts and numbers");
        text.push('\n');
        text.push_str(&checksum_line(text.as_bytes()));
        storage.put(CATALOG_FILE, text.as_bytes())
    }

    /// Reads the file; `None` if there is none. `storage` is the data folder, `data_dir` its name for errors.
    pub fn read(storage: &dyn Storage, data_dir: &Path) -> Result<Option<Self>, HistoryError> {
        let bytes = match storage.get(CATALOG_FILE) {
            Ok(bytes) => bytes,
            Err(StorageError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let damaged = |problem: String| HistoryError::Catalog { path: data_dir.join(CATALOG_FILE), problem };
        decode(&bytes).map(Some).map_err(damaged)
    }
}

fn checksum_line(text: &[u8]) -> String {
    format!("{{\"crc32c\":\"{:08x}\"}}\n", crc32c::crc32c(text))
}

/// Reads the bytes of the file; an error says what is wrong with them.
fn decode(bytes: &[u8]) -> Result<Catalog, String> {
    // The checksum is the last line of two or more: a file of version 1 ends with the brace that it begins with.
    let line_start = bytes.trim_ascii_end().iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let (text, last) = bytes.split_at(line_start);
    let is_summed = last == checksum_line(text).as_bytes();
    let catalog: Catalog = serde_json::from_slice(if is_summed { text } else { bytes }).map_err(|error| {
        let summed = last.starts_with(b"{\"crc32c\"");
        if summed { "its checksum does not match".to_owned() } else { error.to_string() }
    })?;
    match catalog.version {
        version if version > VERSION => Err(format!("it has version {version}, this program reads up to {VERSION}")),
        version if version >= CHECKSUM_SINCE && !is_summed => Err("it has no checksum".to_owned()),
        _ => Ok(catalog),
    }
}

impl CatalogTable {
    fn new(table: &TableLocation, data_dir: &Path) -> Self {
        let location = table.dir.strip_prefix(data_dir).unwrap_or(&table.dir);
        let columns = table.schema.as_ref().map(|schema| {
            let column = |field: &Arc<Field>| Column {
                name: field.name().clone(),
                data_type: field.data_type().to_string(),
                nullable: field.is_nullable(),
            };
            schema.fields().iter().map(column).collect()
        });
        CatalogTable { name: table.name.clone(), location: location.to_string_lossy().into_owned(), columns }
    }

    /// Returns where the table lies. A column type that this program does not know leaves the columns unknown.
    pub fn locate(&self, data_dir: &Path) -> TableLocation {
        let schema = self.columns.as_ref().and_then(|columns| {
            let fields = columns.iter().map(|column| {
                let data_type: DataType = column.data_type.parse().ok()?;
                Some(Field::new(&column.name, data_type, column.nullable))
            });
            Some::<SchemaRef>(Arc::new(Schema::new(fields.collect::<Option<Vec<Field>>>()?)))
        });
        TableLocation { name: self.name.clone(), schema, dir: data_dir.join(PathBuf::from(&self.location)) }
    }
}

#[cfg(test)]
mod tests {
    use tidemill_engine::plan::{dead_letter_schema, timestamp_type};
    use tidemill_engine::storage::LocalStorage;

    use super::*;

    #[test]
    fn a_catalog_survives_its_file_and_a_move_of_the_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let storage = LocalStorage::open(folder.path()).expect("storage");
        let schema = Arc::new(Schema::new(vec![
            Field::new("window_start", timestamp_type(), false),
            Field::new("device", DataType::Utf8View, true),
            Field::new("avg_c", DataType::Float64, true),
        ]));
        let inside = TableLocation {
            name: "room_5s".into(),
            schema: Some(Arc::clone(&schema) as SchemaRef),
            dir: folder.path().join("tables/room_5s"),
        };
        let dead = TableLocation {
            name: "readings$dead".into(),
            schema: Some(dead_letter_schema()),
            dir: PathBuf::from("/elsewhere/dead"),
        };
        Catalog::new([&inside, &dead], folder.path()).write(&storage).expect("write");

        let read = Catalog::read(&storage, folder.path()).expect("read").expect("is there");
        let moved = Path::new("/moved");
        let located: Vec<TableLocation> = read.tables.iter().map(|table| table.locate(moved)).collect();
        assert_eq!(located[0].dir, moved.join("tables/room_5s"));
        assert_eq!(located[0].schema.as_ref(), Some(&schema));
        assert_eq!(located[1].dir, Path::new("/elsewhere/dead"));
        assert_eq!(located[1].schema, Some(dead_letter_schema()));
    }

    #[test]
    fn a_flipped_bit_of_the_catalog_is_found() {
        let folder = tempfile::tempdir().expect("folder");
        let storage = LocalStorage::open(folder.path()).expect("storage");
        let dead = TableLocation {
            name: "readings$dead".into(),
            schema: Some(dead_letter_schema()),
            dir: folder.path().join("tables/readings$dead"),
        };
        let catalog = Catalog::new([&dead], folder.path());
        catalog.write(&storage).expect("write");
        let whole = storage.get(CATALOG_FILE).expect("there");
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = decode(&flipped);
            assert!(found.is_err(), "bit {bit} is flipped, and nobody sees it: {found:?}");
        }
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "cut at {length}");
        }
        assert_eq!(decode(&whole), Ok(catalog));
    }

    #[test]
    fn a_catalog_of_version_1_is_still_read() {
        let old = "{\n  \"version\": 1,\n  \"tables\": [\n    {\n      \"name\": \"t\",\n      \"location\": \"tables/t\"\n    }\n  ]\n}";
        for text in [old.to_owned(), format!("{old}\n"), old.replace(['\n', ' '], "")] {
            let catalog = decode(text.as_bytes()).expect("version 1");
            assert_eq!(catalog.tables[0].locate(Path::new("/data")).dir, Path::new("/data/tables/t"));
        }
    }

    #[test]
    fn a_damaged_catalog_is_refused_with_its_path() {
        let folder = tempfile::tempdir().expect("folder");
        let storage = LocalStorage::open(folder.path()).expect("storage");
        assert_eq!(Catalog::read(&storage, folder.path()).expect("none yet"), None);
        storage.put(CATALOG_FILE, b"{\"version\":1,").expect("put");
        let error = Catalog::read(&storage, folder.path()).expect_err("damaged");
        assert!(error.to_string().contains("catalog.json is damaged"), "{error}");
        storage.put(CATALOG_FILE, b"{\"version\":9,\"tables\":[]}").expect("put");
        let error = Catalog::read(&storage, folder.path()).expect_err("newer");
        assert!(error.to_string().contains("version 9"), "{error}");
    }
}
