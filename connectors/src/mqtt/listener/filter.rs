//! Topic filters as devices and ACL files write them: `+` for one level, `#` for the rest.
//!
//! ```text
//!   filter          topic           matches
//!   plant/+/t       plant/a/t       yes
//!   plant/#         plant           yes: '#' takes also nothing
//!   #, +/x          $SYS/x          no: a wildcard at the first level takes no topic that begins with '$'
//! ```

use super::super::topic::TOPIC_BYTES_MAX;

/// How many levels a filter or a topic of a subscriber may have. Deeper than any plant, shallower than any stack.
pub(super) const LEVELS_MAX: usize = 128;

/// Says what is wrong with a filter, if anything is.
pub(super) fn problem(filter: &str) -> Option<String> {
    if filter.is_empty() {
        return Some("it is empty".to_owned());
    }
    if filter.len() > TOPIC_BYTES_MAX {
        return Some(format!("it has more than {TOPIC_BYTES_MAX} bytes"));
    }
    if filter.contains('\0') {
        return Some("it holds a NUL".to_owned());
    }
    let count = filter.split('/').count();
    if count > LEVELS_MAX {
        return Some(format!("it has more than {LEVELS_MAX} levels"));
    }
    for (idx, level) in filter.split('/').enumerate() {
        if level == "#" && idx + 1 < count {
            return Some("# must be the last level".to_owned());
        }
        if level.len() > 1 && level.contains(['+', '#']) {
            return Some(format!("{level:?}: + and # take a whole level"));
        }
    }
    None
}

/// Says whether a valid filter takes a topic.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Says whether there can be a topic that both filters take.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let reserved = |first: &str, second: &str| first.starts_with('$') && second.starts_with(['+', '#']);
    if reserved(one, other) || reserved(other, one) {
        return false;
    }
    let (mut ones, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (ones.next(), others.next()) {
            (None, None) | (Some("#"), _) | (_, Some("#")) => return true,
            (None, Some(_)) | (Some(_), None) => return false,
            (Some(a), Some(b)) if a == "+" || b == "+" || a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fuzz_filter() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/filter");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let text = String::from_utf8_lossy(input);
            let (filter, topic) = text.split_once('\n').unwrap_or((&text, "a/b"));
            if problem(filter).is_some() {
                return false;
            }
            let own = filter.replace(['+', '#'], "x");
            assert!(matches(filter, &own) && overlap(filter, &own), "{filter:?} takes {own:?}");
            // A topic is a filter that takes itself only.
            if problem(topic).is_none() && !topic.contains(['+', '#']) {
                assert_eq!(matches(filter, topic), overlap(filter, topic), "{filter:?} and {topic:?}");
            }
            true
        });
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/x", true),
            ("/+", "/x", true),
            ("+", "/x", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }

    #[test]
    fn two_filters_overlap_when_one_topic_fits_both() {
        for (one, other, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "+/b", true),
            ("a/+", "b/+", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/b", "a/b/c", false),
            ("#", "x/y", true),
            ("#", "$SYS/y", false),
            ("$SYS/+", "$SYS/#", true),
        ] {
            assert_eq!(overlap(one, other), expected, "{one} {other}");
            assert_eq!(overlap(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn a_bad_filter_is_told_why() {
        for filter in ["", "a/#/b", "a#", "a/b+", "+a", "a\0", &"x/".repeat(LEVELS_MAX)] {
            assert!(problem(filter).is_some(), "{filter:?}");
        }
        for filter in ["#", "+", "/", "a//b", "+/+/#", "$SYS/#"] {
            assert_eq!(problem(filter), None, "{filter:?}");
        }
    }
}
