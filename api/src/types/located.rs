//! Items of many nodes' lists, each with its node.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Item, Keyed};

/// What a node says, with the node. Of an item of a node's own list the node is empty: one type reads both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Located<T> {
    /// Which node says so.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub node: Arc<str>,
    /// What it says.
    #[serde(flatten)]
    pub item: T,
}

impl<T: Item> Item for Located<T> {
    const FIELDS: &'static [&'static str] = T::FIELDS;
    const COLUMNS: &'static [&'static str] = T::COLUMNS;

    fn row(&self) -> Vec<String> {
        let mut row = self.item.row();
        row.insert(0, self.node.to_string());
        row
    }

    fn fields() -> Vec<&'static str> {
        std::iter::once("node").chain(T::fields()).collect()
    }

    fn columns() -> Vec<&'static str> {
        std::iter::once("NODE").chain(T::columns()).collect()
    }
}

impl<T: Keyed> Keyed for Located<T> {
    const KEY: usize = T::KEY + 1;

    fn key(&self) -> Vec<String> {
        let mut key = self.item.key();
        key.push(self.node.to_string());
        key
    }
}
