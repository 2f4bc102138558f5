//! Lists of many nodes as one: in the order of their keys, and of nodes where keys are the same. Pure.
//!
//! A cursor is the key of the last item with its node. Of the nodes up to that one everything up to the key was given;
//! the others may have an item of the same key still.

use nameward_api::{
    page::{Page, Start},
    types::{Keyed, List, Located},
};
use std::sync::Arc;

/// Where a node's page begins for a page of the whole.
pub(crate) fn start_at(page: &Page, node: &str) -> Option<Start> {
    let start = page.start.as_ref()?;
    let (last, key) = start.key().split_last()?;
    let is_given = match start {
        Start::After(_) => node <= last.as_str(),
        Start::From(_) => node < last.as_str(),
    };
    Some(if is_given { Start::After(key.to_vec()) } else { Start::From(key.to_vec()) })
}

/// The page, and the cursor of the next one. Each list is the node's own page of at least the same length.
pub(crate) fn merge<T: Keyed>(
    page: &Page,
    lists: Vec<(Arc<str>, List<T>)>,
) -> (Vec<Located<T>>, Option<String>) {
    let goes_on = lists.iter().any(|(_, list)| list.next.is_some());
    let mut items: Vec<Located<T>> = Vec::new();
    for (node, list) in lists {
        items.extend(list.items.into_iter().map(|item| Located { node: Arc::clone(&node), item }));
    }
    let next = page.take(&mut items);
    // What a node has behind its page is behind the last item of this one.
    let last = || items.last().map(|last| Start::After(last.key()).cursor());
    let next = next.or_else(|| if goes_on { last() } else { None });
    (items, next)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use nameward_api::types::PolicyStatus;

    use super::*;

    fn policy(name: &str) -> PolicyStatus {
        PolicyStatus {
            kind: "EgressPolicy".into(),
            namespace: "ci".into(),
            name: name.into(),
            endpoints: vec![],
            rules: vec![],
        }
    }

    /// What a node says to a page of the whole.
    fn ask(node: &str, names: &[&str], page: &Page) -> (Arc<str>, List<PolicyStatus>) {
        let own = Page { limit: page.limit, start: start_at(page, node) };
        let mut items: Vec<PolicyStatus> = names.iter().map(|name| policy(name)).collect();
        let next = own.take(&mut items);
        (node.into(), List::of_node(node, items, next))
    }

    #[test]
    fn pages_of_the_whole_join_without_a_gap_or_a_double() {
        let nodes: BTreeMap<&str, Vec<&str>> = [
            ("n1", vec!["a", "b", "d"]),
            ("n2", vec!["a", "b", "c", "d"]),
            ("n3", vec![]),
            ("n4", vec!["b", "e"]),
        ]
        .into();
        let all = ["a n1", "a n2", "b n1", "b n2", "b n4", "c n2", "d n1", "d n2", "e n4"];
        for limit in 1..=10 {
            let (mut joined, mut cursor) = (Vec::new(), None);
            loop {
                let page = Page::of::<Located<PolicyStatus>>(Some(limit), cursor.as_deref()).unwrap();
                let lists = nodes.iter().map(|(node, names)| ask(node, names, &page)).collect();
                let (items, next) = merge(&page, lists);
                assert!(items.len() <= limit && (next.is_none() || items.len() == limit));
                joined.extend(items.iter().map(|one| format!("{} {}", one.item.name, one.node)));
                cursor = next;
                if cursor.is_none() {
                    break;
                }
            }
            assert_eq!(joined, all, "pages of {limit}");
        }
    }

    #[test]
    fn a_cursor_says_where_each_node_goes_on() {
        let key = |parts: &[&str]| parts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let page = Page { limit: 1, start: Some(Start::After(key(&["k", "n2"]))) };
        assert_eq!(start_at(&page, "n2"), Some(Start::After(key(&["k"]))));
        assert_eq!(start_at(&page, "n3"), Some(Start::From(key(&["k"]))));
        let page = Page { limit: 1, start: Some(Start::From(key(&["k", "n2"]))) };
        assert_eq!(start_at(&page, "n2"), Some(Start::From(key(&["k"]))));
        assert_eq!(start_at(&page, "n1"), Some(Start::After(key(&["k"]))));
        assert_eq!(start_at(&Page { limit: 1, start: None }, "n1"), None);
    }
}
