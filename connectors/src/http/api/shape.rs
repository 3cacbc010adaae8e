//! How types look as JSON: a schema for each type that is read from a request or written in an answer.
//!
//! `describe!` makes it from the fields of a struct: their types say what they are, and the compiler that none is left out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The schemas of structs, by name.
#[derive(Debug, Default)]
pub struct Components(BTreeMap<&'static str, Value>);

impl Components {
    /// Returns a reference to a struct; `schema` is asked when it is seen first.
    pub fn refer(&mut self, name: &'static str, schema: impl FnOnce(&mut Components) -> Value) -> Value {
        if !self.0.contains_key(name) {
            // There already, for a struct that holds itself.
            self.0.insert(name, Value::Null);
            let schema = schema(self);
            self.0.insert(name, schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    pub(super) fn into_schemas(self) -> Value {
        json!(self.0)
    }
}

/// A type that can say how it looks as JSON.
pub trait Shape {
    /// Returns its schema.
    fn shape(components: &mut Components) -> Value;
}

macro_rules! shapes {
    ($($type:ty => $schema:tt),* $(,)?) => {
        $(impl Shape for $type {
            fn shape(_: &mut Components) -> Value {
                json!($schema)
            }
        })*
    };
}

shapes! {
    bool => {"type": "boolean"},
    str => {"type": "string"},
    String => {"type": "string"},
    u16 => {"type": "integer", "minimum": 0, "maximum": 65_535},
    u64 => {"type": "integer", "minimum": 0},
    usize => {"type": "integer", "minimum": 0},
    i64 => {"type": "integer"},
    f64 => {"type": "number"},
    Value => {},
    serde_json::Map<String, Value> => {"type": "object"},
}

impl<T: Shape + ?Sized> Shape for &T {
    fn shape(components: &mut Components) -> Value {
        T::shape(components)
    }
}

impl<T: Shape> Shape for Option<T> {
    fn shape(components: &mut Components) -> Value {
        let mut schema = T::shape(components);
        match schema.get("type").cloned() {
            Some(Value::String(name)) => schema["type"] = json!([name, "null"]),
            _ => schema = json!({"anyOf": [schema, {"type": "null"}]}),
        }
        schema
    }
}

impl<T: Shape> Shape for [T] {
    fn shape(components: &mut Components) -> Value {
        json!({"type": "array", "items": T::shape(components)})
    }
}

impl<T: Shape, const N: usize> Shape for [T; N] {
    fn shape(components: &mut Components) -> Value {
        <[T]>::shape(components)
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn shape(components: &mut Components) -> Value {
        <[T]>::shape(components)
    }
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn shape(components: &mut Components) -> Value {
        json!({"type": "object", "additionalProperties": T::shape(components)})
    }
}

/// Returns the shape of a field, by a function that reaches it.
#[doc(hidden)]
pub fn of_field<S, T: Shape + ?Sized>(_: fn(&S) -> &T, components: &mut Components) -> Value {
    T::shape(components)
}

/// The same for a field that is not written when it is empty: then it is never null.
#[doc(hidden)]
pub fn of_optional_field<S, T: Shape + ?Sized>(field: fn(&S) -> &T, components: &mut Components) -> Value {
    let mut schema = of_field(field, components);
    match &schema["type"] {
        Value::Array(names) => schema["type"] = names[0].clone(),
        _ if schema["anyOf"].is_array() => schema = schema["anyOf"][0].clone(),
        _ => {}
    }
    schema
}

/// Puts what a field is for into its schema.
#[doc(hidden)]
pub fn with_description(mut schema: Value, description: &str) -> Value {
    if let Value::Object(schema) = &mut schema
        && !description.is_empty()
    {
        schema.insert("description".to_owned(), json!(description));
    }
    schema
}

/// Says how a struct looks as JSON, from its fields: each with what it is for, behind a `;` those that are left out when they are
/// empty. A field whose name is not that of the JSON has it as `field = "name"`.
///
/// ```
/// use tidemill_connectors::describe;
///
/// #[derive(serde::Serialize)]
/// struct Weather {
///     warm: bool,
///     #[serde(skip_serializing_if = "Option::is_none")]
///     note: Option<String>,
/// }
/// describe!(Weather { warm: "whether it is"; note: "what else there is to say" });
/// ```
#[macro_export]
macro_rules! describe {
    (
        $type:ident $(<$life:lifetime>)? $(as $name:literal)? {
            $($field:ident $(= $key:literal)? : $what:literal),* $(,)?
            $(; $($optional:ident $(= $optional_key:literal)? : $optional_what:literal),* $(,)?)?
        }
    ) => {
        impl $(<$life>)? $crate::http::api::Shape for $type $(<$life>)? {
            fn shape(components: &mut $crate::http::api::Components) -> ::serde_json::Value {
                // None is left out.
                let _ = |whole: &Self| {
                    let $type { $($field: _,)* $($($optional: _,)*)? } = whole;
                };
                components.refer($crate::describe!(@key $type $($name)?), |components| {
                    let mut properties = ::serde_json::Map::new();
                    #[allow(unused_mut)]
                    let mut required: Vec<&str> = Vec::new();
                    $(
                        let key = $crate::describe!(@key $field $($key)?);
                        let shape = $crate::http::api::shape::of_field(|whole: &Self| &whole.$field, components);
                        properties.insert(key.to_owned(), $crate::http::api::shape::with_description(shape, $what));
                        required.push(key);
                    )*
                    $($(
                        let key = $crate::describe!(@key $optional $($optional_key)?);
                        let shape = $crate::http::api::shape::of_optional_field(|whole: &Self| &whole.$optional, components);
                        properties.insert(key.to_owned(), $crate::http::api::shape::with_description(shape, $optional_what));
                    )*)?
                    ::serde_json::json!({
                        "type": "object", "required": required, "properties": properties, "additionalProperties": false,
                    })
                })
            }
        }
    };
    (@key $field:ident $key:literal) => { $key };
    (@key $field:ident) => { stringify!($field) };
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Inner {
        count: usize,
    }
    describe!(Inner as "Counted" { count: "how many" });

    struct Outer<'a> {
        kind: &'a str,
        inner: Option<Inner>,
        more: &'a [Inner],
        note: Option<String>,
    }
    describe!(Outer<'a> { kind = "type": "which", inner: "", more: ""; note: "more" });

    #[test]
    fn a_struct_looks_as_its_fields_do() {
        let mut components = Components::default();
        assert_eq!(Outer::shape(&mut components), json!({"$ref": "#/components/schemas/Outer"}));
        let inner = json!({"$ref": "#/components/schemas/Counted"});
        let expected = json!({
            "Counted": {
                "type": "object", "required": ["count"], "additionalProperties": false,
                "properties": {"count": {"type": "integer", "minimum": 0, "description": "how many"}},
            },
            "Outer": {
                "type": "object", "required": ["type", "inner", "more"], "additionalProperties": false,
                "properties": {
                    "type": {"type": "string", "description": "which"},
                    "inner": {"anyOf": [inner, {"type": "null"}]},
                    "more": {"type": "array", "items": inner},
                    "note": {"type": "string", "description": "more"},
                },
            },
        });
        assert_eq!(components.into_schemas(), expected);
    }
}
