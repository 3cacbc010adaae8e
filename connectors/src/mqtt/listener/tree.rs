//! Subscriptions by their filters, level by level: finding those of a topic costs its levels, not the number of filters.
//!
//! ```text
//!   plant ─┬─ a ─── t          plant/a/t
//!          ├─ + ─── t          plant/+/t
//!          └─ #                plant/#
//! ```

use std::collections::HashMap;

/// A tree of filters. Each filter has for each subscriber, by number, a handle and what it was granted.
#[derive(Debug)]
pub(super) struct Tree<H, G> {
    root: Node<H, G>,
}

#[derive(Debug)]
struct Node<H, G> {
    below: HashMap<Box<str>, Node<H, G>>,
    here: HashMap<u64, (H, G)>,
}

impl<H, G> Default for Node<H, G> {
    fn default() -> Self {
        Node { below: HashMap::new(), here: HashMap::new() }
    }
}

impl<H, G> Default for Tree<H, G> {
    fn default() -> Self {
        Tree { root: Node::default() }
    }
}

impl<H, G> Tree<H, G> {
    /// Adds or replaces; returns whether it is new.
    pub(super) fn insert(&mut self, filter: &str, number: u64, handle: H, grant: G) -> bool {
        let mut node = &mut self.root;
        for level in filter.split('/') {
            node = node.below.entry(level.into()).or_default();
        }
        node.here.insert(number, (handle, grant)).is_none()
    }

    /// Removes; returns whether it was there.
    pub(super) fn remove(&mut self, filter: &str, number: u64) -> bool {
        let levels: Vec<&str> = filter.split('/').collect();
        self.root.remove(&levels, number)
    }

    /// Calls `each` for every subscription that takes a topic.
    pub(super) fn matches(&self, topic: &str, each: &mut impl FnMut(&H, &G)) {
        // MQTT-4.7.2-1: a wildcard at the first level takes no topic that begins with '$'.
        let wildcards = !topic.starts_with('$');
        self.root.matches(Some(topic), wildcards, each);
    }
}

impl<H, G> Node<H, G> {
    /// `rest` is what is left of the topic; `None`: nothing. As deep as the filters at most, and they have a limit.
    fn matches(&self, rest: Option<&str>, wildcards: bool, each: &mut impl FnMut(&H, &G)) {
        if wildcards && let Some(node) = self.below.get("#") {
            node.tell(each);
        }
        let Some(rest) = rest else { return self.tell(each) };
        let (level, rest) = match rest.split_once('/') {
            Some((level, rest)) => (level, Some(rest)),
            None => (rest, None),
        };
        // A topic holds no wildcards, so neither name is met twice.
        if let Some(node) = self.below.get(level) {
            node.matches(rest, true, each);
        }
        if wildcards && let Some(node) = self.below.get("+") {
            node.matches(rest, true, each);
        }
    }

    fn tell(&self, each: &mut impl FnMut(&H, &G)) {
        for (handle, grant) in self.here.values() {
            each(handle, grant);
        }
    }

    fn remove(&mut self, levels: &[&str], number: u64) -> bool {
        let Some((level, rest)) = levels.split_first() else { return self.here.remove(&number).is_some() };
        let Some(node) = self.below.get_mut(*level) else { return false };
        let removed = node.remove(rest, number);
        if node.below.is_empty() && node.here.is_empty() {
            self.below.remove(*level);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::super::filter;
    use super::*;

    #[test]
    fn the_tree_finds_what_each_filter_takes() {
        let filters =
            ["#", "+", "a", "a/b", "a/+", "a/#", "+/b", "+/+", "/+", "a//c", "a/+/c", "$SYS/#", "$SYS/+", "+/#"];
        let topics = ["a", "a/b", "a/x", "b/b", "/b", "a//c", "a/b/c", "$SYS/x", "$SYS", "a/", "/"];
        let mut tree = Tree::default();
        for (number, filter) in filters.iter().enumerate() {
            assert!(tree.insert(filter, number as u64, *filter, ()));
            assert!(!tree.insert(filter, number as u64, *filter, ()), "a second time it is not new");
        }
        for topic in topics {
            let mut found = Vec::new();
            tree.matches(topic, &mut |filter, ()| found.push(*filter));
            found.sort_unstable();
            let mut expected: Vec<&str> = filters.into_iter().filter(|f| filter::matches(f, topic)).collect();
            expected.sort_unstable();
            assert_eq!(found, expected, "{topic}");
        }
    }

    #[test]
    fn a_tree_without_subscriptions_is_empty_again() {
        let mut tree = Tree::default();
        tree.insert("a/b/c", 1, (), ());
        tree.insert("a/b", 1, (), ());
        assert!(!tree.remove("a", 1));
        assert!(!tree.remove("a/b", 2));
        assert!(tree.remove("a/b/c", 1));
        assert!(tree.remove("a/b", 1));
        assert!(tree.root.below.is_empty());
    }
}
