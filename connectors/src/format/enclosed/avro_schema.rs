//! The schema that an Avro container brings along: looked through before anybody believes it.
//!
//! A few lines of JSON can name a type of a type of a type, and become a billion fields; an array of items that take no bytes may
//! have as many as it says. So names are resolved here, and what is left is a schema without names that are referred to before they
//! are defined, of so many types and so many levels at most, reduced to the fields that are wanted.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Unreadable;

/// Types of a schema, each counted as often as it is used.
pub(super) const AVRO_TYPES_MAX: usize = 10_000;
/// Types in types.
pub(super) const AVRO_LEVELS_MAX: usize = 48;
/// Bytes of a `fixed` that may be missing inside an array or a map: a column has as many all the same.
const FIXED_IN_LIST_BYTES_MAX: u64 = 64;

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// A schema that may be believed.
#[derive(Debug)]
pub(super) struct Schema {
    root: String,
    definitions: Definitions,
}

/// What a schema says of rows.
pub(super) struct Rows {
    /// The schema of a datum whose one field is an array of records.
    pub(super) all: String,
    /// The same with only those of their fields that are wanted.
    pub(super) wanted: String,
    /// The fewest bytes that a record takes.
    bytes_min: usize,
    /// Bytes that a row takes in memory for fields of type fixed, also where they are missing.
    fixed_bytes: u64,
}

impl Rows {
    /// Whether so many records may have so many bytes.
    pub(super) fn could_be(&self, row_count: usize, bytes: usize) -> bool {
        row_count.checked_mul(self.bytes_min).is_some_and(|min| min <= bytes)
    }

    /// Refuses rows that would take too much memory, though they are short.
    pub(super) fn check(&self, row_count: usize, bytes_max: u64) -> Result<(), Unreadable> {
        if self.fixed_bytes.saturating_mul(row_count as u64) <= bytes_max {
            return Ok(());
        }
        Err(Unreadable::TooLarge(format!(
            "{row_count} rows with {} bytes in fields of type fixed are more than {} MiB",
            self.fixed_bytes,
            bytes_max >> 20
        )))
    }
}

/// The types that have names, each with its place.
type Definitions = BTreeMap<String, (usize, Value)>;

/// What a walk over a schema has seen.
struct Walk<'s> {
    definitions: &'s Definitions,
    /// What was defined already, and is a name from here on.
    defined: BTreeSet<String>,
    /// The types that are being walked over.
    open: Vec<String>,
    types: usize,
    /// Bytes of all `fixed` of a row.
    fixed_bytes: u64,
    lists: usize,
    /// Unions inside the innermost list.
    unions: usize,
}

impl Schema {
    /// Reads the JSON of a schema.
    pub(super) fn parse(json: &[u8]) -> Result<Schema, Unreadable> {
        let value: Value = serde_json::from_slice(json).map_err(|error| wrong(format!("is no JSON: {error}")))?;
        let mut definitions = BTreeMap::new();
        define(&value, "", &mut definitions, AVRO_LEVELS_MAX)?;
        let root = match value.get("name").map(|name| full_name(&value, name, "")) {
            Some(name) if value["type"] == "record" => name?,
            _ => return Err(wrong("is not that of records".to_owned())),
        };
        Ok(Schema { root, definitions })
    }

    /// Returns the schema with all its names resolved.
    pub(super) fn resolved(&self) -> Result<String, Unreadable> {
        Ok(self.walk(|_| true)?.0.to_string())
    }

    /// Returns how rows are read, of which only some fields are `wanted`.
    pub(super) fn of_rows(&self, wanted: impl Fn(&str) -> bool) -> Result<Rows, Unreadable> {
        let (all, bytes_min, _) = self.walk(|_| true)?;
        if bytes_min == 0 {
            return Err(wrong("is that of records without bytes".to_owned()));
        }
        let (some, _, fixed_bytes) = self.walk(wanted)?;
        Ok(Rows { all: wrapped(all), wanted: wrapped(some), bytes_min, fixed_bytes })
    }

    fn walk(&self, wanted: impl Fn(&str) -> bool) -> Result<(Value, usize, u64), Unreadable> {
        let (place, mut root) = self.definitions[&self.root].clone();
        if let Some(fields) = root.get_mut("fields").and_then(Value::as_array_mut) {
            fields.retain(|field| field["name"].as_str().is_some_and(&wanted));
        }
        let mut walk = Walk {
            definitions: &self.definitions,
            defined: BTreeSet::new(),
            open: Vec::new(),
            types: 0,
            fixed_bytes: 0,
            lists: 0,
            unions: 0,
        };
        let (schema, size_min) = walk.definition(&self.root, place, &root)?;
        Ok((schema, size_min, walk.fixed_bytes))
    }
}

fn wrapped(record: Value) -> String {
    let field = json!({"name": "rows", "type": {"type": "array", "items": record}});
    json!({"type": "record", "name": "tidemill_rows", "fields": [field]}).to_string()
}

fn wrong(what: String) -> Unreadable {
    Unreadable::Damaged(format!("not an Avro container whose schema can be used: it {what}"))
}

/// The name of a definition, with its namespace.
fn full_name(definition: &Value, name: &Value, around: &str) -> Result<String, Unreadable> {
    let name = name.as_str().ok_or_else(|| wrong("has a name that is no text".to_owned()))?;
    let namespace = definition.get("namespace").and_then(Value::as_str).unwrap_or(around);
    Ok(qualified(name, namespace))
}

fn qualified(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn namespace_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(namespace, _)| namespace)
}

/// Collects the types that have names, with all names in them made full.
fn define(schema: &Value, around: &str, definitions: &mut Definitions, levels: usize) -> Result<Value, Unreadable> {
    let Some(levels) = levels.checked_sub(1) else { return Err(too_deep()) };
    match schema {
        Value::String(name) if PRIMITIVES.contains(&name.as_str()) => Ok(schema.clone()),
        Value::String(name) => Ok(Value::String(qualified(name, around))),
        Value::Array(branches) => {
            let branches: Result<Vec<Value>, _> =
                branches.iter().map(|branch| define(branch, around, definitions, levels)).collect();
            Ok(Value::Array(branches?))
        }
        Value::Object(object) => {
            let kind = object.get("type").unwrap_or(&Value::Null);
            let Some(kind) = kind.as_str() else { return define(kind, around, definitions, levels) };
            // What only writers and readers of documents need, and what readers hold against a type.
            let mut own: Map<String, Value> = object.clone();
            ["aliases", "doc", "default", "order", "namespace"].iter().for_each(|key| drop(own.remove(*key)));
            match kind {
                "array" | "map" => {
                    let key = if kind == "array" { "items" } else { "values" };
                    let inner = object.get(key).ok_or_else(|| wrong(format!("has a type {kind} without {key}")))?;
                    own.insert(key.to_owned(), define(inner, around, definitions, levels)?);
                    Ok(Value::Object(own))
                }
                "record" | "error" | "enum" | "fixed" => {
                    let name = object.get("name").ok_or_else(|| wrong(format!("has a {kind} without a name")))?;
                    let name = full_name(schema, name, around)?;
                    own.insert("name".to_owned(), Value::String(name.clone()));
                    if kind == "record" || kind == "error" {
                        let fields = object.get("fields").and_then(Value::as_array);
                        let fields = fields.ok_or_else(|| wrong(format!("has a record {name} without fields")))?;
                        let field = |field: &Value| -> Result<Value, Unreadable> {
                            let field_name = field["name"].as_str().unwrap_or_default();
                            let inner = define(&field["type"], namespace_of(&name), definitions, levels)?;
                            Ok(json!({"name": field_name, "type": inner}))
                        };
                        let fields: Result<Vec<Value>, _> = fields.iter().map(field).collect();
                        own.insert("fields".to_owned(), Value::Array(fields?));
                    }
                    let place = definitions.len();
                    if definitions.insert(name.clone(), (place, Value::Object(own))).is_some() {
                        return Err(wrong(format!("defines {name} twice")));
                    }
                    Ok(Value::String(name))
                }
                _ if PRIMITIVES.contains(&kind) => Ok(Value::Object(own)),
                name => Ok(Value::String(qualified(name, around))),
            }
        }
        _ => Err(wrong(format!("has a type that is none: {schema}"))),
    }
}

fn too_deep() -> Unreadable {
    wrong(format!("has types in types, more than {AVRO_LEVELS_MAX} levels of them"))
}

impl Walk<'_> {
    /// Returns a type with its definitions in place, and the fewest bytes that a value takes.
    fn visit(&mut self, schema: &Value) -> Result<(Value, usize), Unreadable> {
        self.types += 1;
        if self.types > AVRO_TYPES_MAX {
            return Err(wrong(format!("has more than {AVRO_TYPES_MAX} types, counted as often as they are used")));
        }
        match schema {
            Value::String(name) if name == "null" => Ok((schema.clone(), 0)),
            Value::String(name) if PRIMITIVES.contains(&name.as_str()) => Ok((schema.clone(), 1)),
            Value::String(name) => {
                let definitions = self.definitions;
                let found = definitions.get(name);
                let (place, found) = found.ok_or_else(|| wrong(format!("names a type {name} that it has not")))?;
                self.definition(name, *place, found)
            }
            Value::Array(branches) => {
                self.unions += 1;
                let visited: Result<Vec<_>, _> = branches.iter().map(|branch| self.visit(branch)).collect();
                self.unions -= 1;
                Ok((Value::Array(visited?.into_iter().map(|(branch, _)| branch).collect()), 1))
            }
            Value::Object(object) => {
                let kind = object["type"].as_str().unwrap_or_default();
                let key = match kind {
                    "array" => "items",
                    "map" => "values",
                    _ => return Ok((schema.clone(), usize::from(kind != "null"))),
                };
                let unions = std::mem::take(&mut self.unions);
                self.lists += 1;
                let (inner, size_min) = self.visit(&object[key])?;
                self.lists -= 1;
                self.unions = unions;
                // The reader would count them one by one, to the billions that they may be.
                if kind == "array" && size_min == 0 {
                    return Err(wrong("has an array of items that take no bytes".to_owned()));
                }
                let mut own = object.clone();
                own.insert(key.to_owned(), inner);
                Ok((Value::Object(own), 1))
            }
            _ => unreachable!("looked through when it was parsed"),
        }
    }

    /// The same for a type that has a name.
    fn definition(&mut self, name: &str, place: usize, definition: &Value) -> Result<(Value, usize), Unreadable> {
        if self.open.iter().any(|open| open == name) {
            return Err(wrong(format!("has a type {name} that holds itself, and no column can hold that")));
        }
        if self.open.len() >= AVRO_LEVELS_MAX {
            return Err(too_deep());
        }
        self.open.push(name.to_owned());
        // Named anew: the reader does not find a name with a dot again. Both of its schemas have the same.
        let new_name = Value::String(format!("type_{place}"));
        let mut own = definition.as_object().cloned().unwrap_or_default();
        own.insert("name".to_owned(), new_name.clone());
        let size_min = match own["type"].as_str() {
            Some("fixed") => {
                let size = own.get("size").and_then(Value::as_u64);
                let size = size.ok_or_else(|| wrong(format!("has a fixed {name} without a size")))?;
                if self.lists > 0 && self.unions > 0 && size > FIXED_IN_LIST_BYTES_MAX {
                    return Err(wrong(format!(
                        "has a fixed {name} of {size} bytes that may be missing in an array or a map, where {FIXED_IN_LIST_BYTES_MAX} are taken"
                    )));
                }
                self.fixed_bytes = self.fixed_bytes.saturating_add(size);
                usize::try_from(size).unwrap_or(usize::MAX)
            }
            Some("enum") => 1,
            _ => {
                let fields = definition["fields"].as_array().map(Vec::as_slice).unwrap_or_default();
                let mut visited = Vec::with_capacity(fields.len());
                let mut size = 0usize;
                for field in fields {
                    let (inner, size_min) = self.visit(&field["type"])?;
                    size = size.saturating_add(size_min);
                    visited.push(json!({"name": field["name"], "type": inner}));
                }
                own.insert("fields".to_owned(), Value::Array(visited));
                size
            }
        };
        self.open.pop();
        let is_first = self.defined.insert(name.to_owned());
        Ok((if is_first { Value::Object(own) } else { new_name }, size_min))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        let rows = Schema::parse(json.as_bytes()).and_then(|schema| schema.of_rows(|_| true));
        rows.and_then(|rows| rows.check(1_000, 64 << 20)).expect_err("refused").reason()
    }

    #[test]
    fn names_are_resolved_and_fields_that_are_not_wanted_leave_none_behind() {
        let schema = r#"{"type": "record", "name": "R", "namespace": "plant", "doc": "x", "fields": [
            {"name": "a", "type": {"type": "fixed", "name": "F", "size": 2}},
            {"name": "b", "type": ["null", "F"], "default": null},
            {"name": "c", "type": {"type": "map", "values": "plant.F"}}]}"#;
        let rows = Schema::parse(schema.as_bytes()).unwrap().of_rows(|name| name == "b").unwrap();
        assert!(rows.could_be(10, 40) && !rows.could_be(10, 39), "two bytes of a, one of b, one of c");
        let (all, some) = (rows.all, rows.wanted);
        let record = |text: &str| -> Value {
            let value: Value = serde_json::from_str(text).unwrap();
            value["fields"][0]["type"]["items"].clone()
        };
        let fixed = json!({"type": "fixed", "name": "type_0", "size": 2});
        assert_eq!(record(&all)["fields"][0]["type"], fixed);
        assert_eq!(record(&all)["fields"][1]["type"], json!(["null", "type_0"]));
        assert_eq!(record(&all)["fields"][2]["type"]["values"], "type_0");
        assert_eq!(record(&some)["fields"], json!([{"name": "b", "type": ["null", fixed]}]));
    }

    #[test]
    fn what_would_grow_without_end_is_refused_before_it_does() {
        let mut doubling = "\"int\"".to_owned();
        for level in 0..30 {
            let name = format!("R{level}");
            doubling = format!(
                r#"{{"type": "record", "name": "{name}", "fields": [{{"name": "a", "type": {doubling}}}, {{"name": "b", "type": "{}"}}]}}"#,
                if level == 0 { "int".to_owned() } else { format!("R{}", level - 1) }
            );
        }
        let deep = (0..100).fold("\"int\"".to_owned(), |inner, _| format!(r#"{{"type": "array", "items": {inner}}}"#));
        let with = |inner: &str| {
            format!(
                r#"{{"type": "record", "name": "R", "fields": [{{"name": "n", "type": "int"}}, {{"name": "a", "type": {inner}}}]}}"#
            )
        };
        for (schema, expected) in [
            (doubling, "more than 10000 types"),
            (with(&deep), "more than 48 levels"),
            (with(r#"["null", "R"]"#), "type R that holds itself"),
            (with(r#"{"type": "array", "items": "null"}"#), "items that take no bytes"),
            (with(r#"{"type": "fixed", "name": "F", "size": 1000000}"#), "1000 rows with 1000000 bytes"),
            (
                with(r#"{"type": "array", "items": ["null", {"type": "fixed", "name": "F", "size": 1000}]}"#),
                "1000 bytes that may be missing in an array",
            ),
            (with("\"nothing\""), "names a type nothing that it has not"),
            (r#"{"type": "record", "name": "R", "fields": []}"#.to_owned(), "records without bytes"),
            ("\"long\"".to_owned(), "not that of records"),
            ("{".to_owned(), "is no JSON"),
        ] {
            let reason = refused(&schema);
            assert!(reason.contains(expected), "{schema}: {reason}");
        }
    }
}
