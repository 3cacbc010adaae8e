//! Answers whose rows stand somewhere inside: the path to the array that holds most of them.

use serde_json::Value;

/// Levels that are looked through.
const LEVELS_MAX: usize = 4;
/// An array with fewer objects may as well be a value of one row.
const ROWS_MIN: usize = 2;

/// Finds where the rows are, if every answer is one object with such an array.
pub(super) fn rows_at<'b>(answers: impl Iterator<Item = &'b [u8]>) -> Option<Vec<String>> {
    let mut found: Option<Vec<String>> = None;
    for answer in answers {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let path = match &found {
            // The first answer decides; a later one may have fewer rows there.
            Some(path) => at(&answer, path)?.is_array().then(|| path.clone())?,
            None => {
                let mut best = (ROWS_MIN - 1, Vec::new());
                look(&answer, &mut Vec::new(), &mut best);
                (!best.1.is_empty()).then_some(best.1)?
            }
        };
        found = Some(path);
    }
    found
}

/// Returns what stands at a path, as text.
pub(super) fn part(answer: &[u8], path: &[String]) -> Vec<u8> {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    at(&answer, path).map(|part| part.to_string().into_bytes()).unwrap_or_default()
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

fn look(value: &Value, path: &mut Vec<String>, best: &mut (usize, Vec<String>)) {
    match value {
        Value::Object(members) if path.len() < LEVELS_MAX => {
            for (name, member) in members.iter().filter(|(name, _)| !name.is_empty() && !name.contains('.')) {
                path.push(name.clone());
                look(member, path, best);
                path.pop();
            }
        }
        Value::Array(elements) => {
            let rows = elements.iter().filter(|element| element.is_object()).count();
            if rows == elements.len() && rows > best.0 {
                *best = (rows, path.clone());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_array_of_objects_is_where_the_rows_are() {
        let path = |answers: &[&'static str]| {
            rows_at(answers.iter().map(|answer| answer.as_bytes())).map(|path| path.join("."))
        };
        let nested =
            r#"{"ok":true,"links":[{"a":1},{"a":2}],"data":{"items":[{"v":1},{"v":2},{"v":3}],"n":[1,2,3,4]}}"#;
        assert_eq!(path(&[nested]).as_deref(), Some("data.items"));
        assert_eq!(path(&[nested, r#"{"data":{"items":[]}}"#]).as_deref(), Some("data.items"));
        for none in
            [r#"[{"v":1},{"v":2}]"#, r#"{"v":1}"#, r#"{"v":[{"a":1}]}"#, "{\"v\":1}\n{\"v\":2}", r#"{"a.b":[{},{}]}"#]
        {
            assert_eq!(path(&[none]), None, "{none}");
        }
        assert_eq!(path(&[nested, "{}"]), None);
        assert_eq!(part(nested.as_bytes(), &["data".into(), "items".into()]), br#"[{"v":1},{"v":2},{"v":3}]"#);
    }
}
