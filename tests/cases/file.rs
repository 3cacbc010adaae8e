//! Reads a `.case` file.

use std::path::Path;

/// A case as it was written.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) sql: String,
    pub(super) input: Input,
    pub(super) tables: Vec<Expected>,
    /// What `tidemill check` must say, if the SQL is wrong.
    pub(super) complaint: Vec<String>,
}

/// What comes in.
pub(super) enum Input {
    /// Nothing: the SQL is only checked.
    None,
    /// One POST each.
    Posts(Vec<Post>),
    /// Files that a bounded source reads.
    Files(Vec<(String, String)>),
}

/// Rows that are sent together.
pub(super) struct Post {
    pub(super) source: String,
    pub(super) lines: String,
}

/// A table as it must be.
pub(super) struct Expected {
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    /// Sorted.
    pub(super) rows: Vec<Vec<String>>,
}

impl Case {
    /// Reads a file; anything unexpected is a mistake of its author and panics.
    pub(super) fn read(path: &Path) -> Case {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).expect("a readable case");
        let mut case = Case { name, sql: String::new(), input: Input::None, tables: vec![], complaint: vec![] };
        let (mut posts, mut files) = (Vec::new(), Vec::new());
        for section in format!("\n{text}").split("\n--- ").skip(1) {
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            let body = format!("{}\n", body.trim_end());
            match head.split_once(' ').unwrap_or((head, "")) {
                ("sql", "") => case.sql = body,
                ("rows", source) => posts.push(Post { source: source.to_owned(), lines: body }),
                ("file", name) => files.push((name.to_owned(), body)),
                ("table", name) => case.tables.push(Expected::read(name, &body)),
                ("error", "") => case.complaint = body.lines().map(str::to_owned).collect(),
                _ => panic!("{}: section {head:?} is not known", path.display()),
            }
        }
        case.input = match (posts.is_empty(), files.is_empty()) {
            (true, true) => Input::None,
            (false, true) => Input::Posts(posts),
            (true, false) => Input::Files(files),
            (false, false) => panic!("{}: rows or files, not both", path.display()),
        };
        let is_error = matches!(case.input, Input::None);
        assert!(!case.sql.is_empty() && is_error == case.tables.is_empty(), "{}", path.display());
        assert_eq!(is_error, !case.complaint.is_empty(), "{}", path.display());
        case
    }
}

impl Expected {
    fn read(name: &str, body: &str) -> Expected {
        let mut lines =
            body.lines().map(|line| line.split(" |").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
        let columns = lines.next().expect("a table has columns");
        let mut rows: Vec<Vec<String>> = lines.collect();
        assert!(rows.iter().all(|row| row.len() == columns.len()), "table {name}: rows as long as the header");
        rows.sort();
        Expected { name: name.to_owned(), columns, rows }
    }
}
