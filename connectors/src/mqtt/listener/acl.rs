//! Who may publish and read what: an access file in the words of Mosquitto.
//!
//! ```text
//!   topic read plant/#                 before the first `user`: clients without a name
//!   user press-7                       from here on: this user
//!   topic write plant/press-7/#        read | write | readwrite (the default) | deny
//!   pattern readwrite devices/%u/#     every client; %u is the user's name, %c the client id
//!   # a comment
//! ```
//!
//! With a file, what no rule allows is refused, and `deny` wins over everything that allows. `%u` and `%c` stand for exactly
//! what the client is called: a client whose name or id holds `+`, `#` or `/` gets nothing from such a line.

use std::collections::HashMap;
use std::sync::Arc;

use super::filter;
use super::watched::Mistake;

/// How many rules a file may have.
const RULES_MAX: usize = 100_000;

/// What a client wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// What a rule says about the topics of its filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    Read,
    Write,
    ReadWrite,
    Deny,
}

impl Grant {
    fn allows(self, access: Access) -> bool {
        match self {
            Grant::Read => access == Access::Read,
            Grant::Write => access == Access::Write,
            Grant::ReadWrite => true,
            Grant::Deny => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    grant: Grant,
    filter: String,
}

/// A file as it was read.
#[derive(Debug, Default)]
pub(super) struct Acl {
    anonymous: Arc<Vec<Rule>>,
    users: HashMap<String, Arc<Vec<Rule>>>,
    patterns: Vec<Rule>,
}

impl Acl {
    /// Reads a file.
    pub(super) fn read(text: &str) -> Result<Acl, Mistake> {
        let mut anonymous = Vec::new();
        let mut users: HashMap<String, Vec<Rule>> = HashMap::new();
        let mut patterns = Vec::new();
        let mut user: Option<String> = None;
        for (idx, line) in text.lines().enumerate() {
            let mistake = |problem: String| Mistake { line: idx + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if idx >= RULES_MAX {
                return Err(mistake(format!("more than {RULES_MAX} lines")));
            }
            let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "user" if rest.is_empty() => return Err(mistake("a name must follow `user`".to_owned())),
                "user" => {
                    users.entry(rest.to_owned()).or_default();
                    user = Some(rest.to_owned());
                }
                "topic" => {
                    let rule = read_rule(word, rest).map_err(mistake)?;
                    match &user {
                        Some(user) => users.entry(user.clone()).or_default().push(rule),
                        None => anonymous.push(rule),
                    }
                }
                "pattern" => patterns.push(read_rule(word, rest).map_err(mistake)?),
                other => {
                    return Err(mistake(format!("{other:?} is not one of user, topic, pattern, or # for a comment")));
                }
            }
        }
        let users = users.into_iter().map(|(name, rules)| (name, Arc::new(rules))).collect();
        Ok(Acl { anonymous: Arc::new(anonymous), users, patterns })
    }

    /// Returns what a client may do; `user` is a name that was verified.
    pub(super) fn permits(&self, user: Option<&str>, client_id: &str) -> Permits {
        let own = match user {
            None => Arc::clone(&self.anonymous),
            Some(user) => self.users.get(user).map(Arc::clone).unwrap_or_default(),
        };
        let patterns = self.patterns.iter().filter_map(|rule| {
            let filter = fill(&rule.filter, user, client_id)?;
            Some(Rule { grant: rule.grant, filter })
        });
        Permits(Some(Rules { own, patterns: patterns.collect() }))
    }
}

/// What one client may do.
#[derive(Clone, Debug, Default)]
pub(super) struct Permits(Option<Rules>);

#[derive(Clone, Debug)]
struct Rules {
    own: Arc<Vec<Rule>>,
    patterns: Vec<Rule>,
}

impl Rules {
    fn iter(&self) -> impl Iterator<Item = &Rule> {
        self.own.iter().chain(&self.patterns)
    }
}

impl Permits {
    /// Everything: there is no file.
    pub(super) fn everything() -> Self {
        Permits(None)
    }

    /// Says whether a topic may be read or written.
    pub(super) fn allow(&self, access: Access, topic: &str) -> bool {
        let Some(rules) = &self.0 else { return true };
        let mut allowed = false;
        for rule in rules.iter() {
            if (rule.grant == Grant::Deny || !allowed && rule.grant.allows(access))
                && filter::matches(&rule.filter, topic)
            {
                if rule.grant == Grant::Deny {
                    return false;
                }
                allowed = true;
            }
        }
        allowed
    }

    /// Says whether a subscription could bring anything at all. What it brings is still asked for each message.
    pub(super) fn allow_subscription(&self, wanted: &str) -> bool {
        let Some(rules) = &self.0 else { return true };
        rules.iter().any(|rule| rule.grant.allows(Access::Read) && filter::overlap(&rule.filter, wanted))
    }
}

/// Puts the client's names into a pattern; `None` if it has none, or one that would change the pattern's meaning.
fn fill(pattern: &str, user: Option<&str>, client_id: &str) -> Option<String> {
    let plain = |name: &str| !name.is_empty() && !name.contains(['+', '#', '/']);
    let mut filled = pattern.to_owned();
    // First the ids: a user's name may hold "%c", and must not be read as one.
    for (place, name) in [("%c", Some(client_id)), ("%u", user)] {
        if pattern.contains(place) {
            let name = name.filter(|name| plain(name) && !name.contains("%u"))?;
            filled = filled.replace(place, name);
        }
    }
    Some(filled)
}

fn read_rule(word: &str, rest: &str) -> Result<Rule, String> {
    let (first, tail) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let (grant, filter) = match (first, tail.trim()) {
        (_, "") => (Grant::ReadWrite, rest),
        ("read", filter) => (Grant::Read, filter),
        ("write", filter) => (Grant::Write, filter),
        ("readwrite", filter) => (Grant::ReadWrite, filter),
        ("deny", filter) => (Grant::Deny, filter),
        // A topic may hold spaces.
        _ => (Grant::ReadWrite, rest),
    };
    if ["read", "write", "readwrite", "deny"].contains(&filter) {
        return Err(format!("a topic must follow `{word} {filter}`"));
    }
    match filter::problem(filter) {
        Some(_) if filter.is_empty() => Err(format!("a topic must follow `{word}`")),
        Some(problem) => Err(format!("{filter:?} is not a topic filter: {problem}")),
        None => Ok(Rule { grant, filter: filter.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# who has no name may look
topic read public/#

user ada
topic plant/ada/#
topic read results/#
topic deny results/secret
user bob
topic write plant/+/temperature
pattern readwrite own/%u/#
pattern write ids/%c/up
";

    fn ask(user: Option<&str>, id: &str, access: Access, topic: &str) -> bool {
        Acl::read(FILE).expect("a good file").permits(user, id).allow(access, topic)
    }

    #[test]
    fn fuzz_access_file() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/src/mqtt/corpus/access_file");
        tidemill_engine::testing::fuzz::fuzz(corpus, |input| {
            let text = String::from_utf8_lossy(input);
            match Acl::read(&text) {
                Ok(acl) => {
                    for (user, id) in [(None, "dev"), (Some("ada"), "dev"), (Some("%c"), "a/#"), (Some("+"), "")] {
                        let permits = acl.permits(user, id);
                        for topic in ["plant/ada/1", "ids/dev/up", "own/ada/x", "$SYS/x", "a", "/"] {
                            let reads = permits.allow(Access::Read, topic);
                            assert!(!reads || permits.allow_subscription(topic), "{user:?} {id} {topic}: {text:?}");
                            permits.allow(Access::Write, topic);
                        }
                    }
                    true
                }
                Err(Mistake { line, problem }) => {
                    assert!((1..=text.lines().count()).contains(&line) && !problem.is_empty(), "line {line}: {text:?}");
                    false
                }
            }
        });
    }

    #[test]
    fn a_topic_is_open_to_those_whom_a_line_names() {
        use Access::{Read, Write};
        for (user, id, access, topic, expected) in [
            (None, "x", Read, "public/a", true),
            (None, "x", Write, "public/a", false),
            (None, "x", Read, "plant/ada/1", false),
            (Some("ada"), "x", Write, "plant/ada/1", true),
            (Some("ada"), "x", Read, "plant/ada/1", true),
            (Some("ada"), "x", Write, "plant/bob/1", false),
            (Some("ada"), "x", Read, "results/a", true),
            (Some("ada"), "x", Write, "results/a", false),
            (Some("ada"), "x", Read, "results/secret", false),
            (Some("ada"), "x", Read, "public/a", false),
            (Some("bob"), "x", Write, "plant/9/temperature", true),
            (Some("bob"), "x", Write, "plant/9/humidity", false),
            (Some("bob"), "x", Write, "own/bob/1", true),
            (Some("bob"), "x", Write, "own/ada/1", false),
            (None, "x", Write, "own//1", false),
            (None, "dev", Write, "ids/dev/up", true),
            (Some("nobody"), "dev", Write, "ids/other/up", false),
            // A name that is a wildcard opens nothing.
            (Some("+"), "x", Write, "own/bob/1", false),
            (Some("x"), "#", Write, "ids/dev/up", false),
            (Some("%c"), "bob", Write, "own/bob/1", false),
        ] {
            assert_eq!(ask(user, id, access, topic), expected, "{user:?} {id} {access:?} {topic}");
        }
    }

    #[test]
    fn a_subscription_that_could_bring_nothing_is_refused() {
        let permits = |user| Acl::read(FILE).expect("a good file").permits(user, "id");
        assert!(permits(Some("ada")).allow_subscription("#"));
        assert!(permits(Some("ada")).allow_subscription("results/+"));
        assert!(!permits(Some("ada")).allow_subscription("public/#"));
        assert!(!permits(Some("bob")).allow_subscription("plant/#"), "write is not read");
        assert!(Permits::everything().allow_subscription("x"));
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        for (text, line, words) in [
            ("topic a\nuser\n", 2, "a name must follow"),
            ("\n\ntopics a\n", 3, "not one of user, topic, pattern"),
            ("topic read\n", 1, "a topic must follow"),
            ("topic\n", 1, "a topic must follow"),
            ("user a\ntopic write a/#/b\n", 2, "# must be the last level"),
        ] {
            let mistake = Acl::read(text).expect_err(text);
            assert_eq!(mistake.line, line, "{text:?}");
            assert!(mistake.problem.contains(words), "{text:?}: {}", mistake.problem);
        }
    }
}
