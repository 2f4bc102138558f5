//! Pages of lists: how many items, and where the next page begins. A cursor names the last item that was given, so
//! that what comes and goes meanwhile makes no item come twice. One that names the first item to give is for lists that
//! are put together of several: the same key may come from each of them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{Problem, types::Keyed};

/// Items of a page when nothing else is asked for.
pub const DEFAULT: usize = 500;
/// Items of a page at most.
pub const MAX: usize = 1_000;
/// A longer cursor is none of ours.
const LONGEST: usize = 2_048;
/// Says what a cursor looks like inside: what is behind a key, or what begins with it.
const AFTER: &str = "a";
const FROM: &str = "f";

/// Which page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items at most.
    pub limit: usize,
    /// Where it begins; none for the first page.
    pub start: Option<Start>,
}

/// Where a page begins, by the keys of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Behind the last item of the page before.
    After(Vec<String>),
    /// With an item of this key, where there is one.
    From(Vec<String>),
}

impl Start {
    /// The key.
    pub fn key(&self) -> &[String] {
        match self {
            Self::After(key) | Self::From(key) => key,
        }
    }

    /// As `cursor` has it.
    pub fn cursor(&self) -> String {
        let form = match self {
            Self::After(_) => AFTER,
            Self::From(_) => FROM,
        };
        let parts = std::iter::once(form).chain(self.key().iter().map(String::as_str));
        URL_SAFE_NO_PAD.encode(parts.collect::<Vec<_>>().join("\0"))
    }

    /// Whether an item of this key is on the page or behind it.
    pub fn admits(&self, key: &[String]) -> bool {
        match self {
            Self::After(last) => key > &last[..],
            Self::From(first) => key >= &first[..],
        }
    }
}

impl Page {
    /// Reads `limit` and `cursor`; keys of the list have so many parts.
    ///
    /// # Errors
    /// A [`Problem`] for what is out of bounds, or no cursor of this list.
    pub fn read(limit: Option<usize>, cursor: Option<&str>, parts: usize) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(DEFAULT);
        if !(1..=MAX).contains(&limit) {
            return Err(Problem::bad(format!("limit {limit}: write a number from 1 to {MAX}")));
        }
        let start =
            cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| decode(cursor, parts)).transpose()?;
        Ok(Self { limit, start })
    }

    /// Reads them for a list of these items.
    ///
    /// # Errors
    /// The same.
    pub fn of<T: Keyed>(limit: Option<usize>, cursor: Option<&str>) -> Result<Self, Problem> {
        Self::read(limit, cursor, T::KEY)
    }

    /// Puts a list into order, leaves the items of this page, and returns the cursor of the next one.
    pub fn take<T: Keyed>(&self, items: &mut Vec<T>) -> Option<String> {
        if let Some(start) = &self.start {
            items.retain(|item| start.admits(&item.key()));
        }
        items.sort_by_cached_key(Keyed::key);
        self.cut(items)
    }

    /// Leaves the items of this page, of a list that may go on behind them, and returns the cursor of the next page.
    pub fn cut<T: Keyed>(&self, items: &mut Vec<T>) -> Option<String> {
        let next = (items.len() > self.limit).then(|| Start::After(items[self.limit - 1].key()).cursor());
        items.truncate(self.limit);
        next
    }
}

fn decode(cursor: &str, parts: usize) -> Result<Start, Problem> {
    let bad = || Problem::bad("cursor: pass on `next` of the page before as it is, or leave it out");
    if cursor.len() > LONGEST {
        return Err(bad());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let mut all = text.split('\0').map(str::to_owned);
    let form = all.next();
    let key: Vec<String> = all.collect();
    match form.as_deref() {
        Some(AFTER) if key.len() == parts => Ok(Start::After(key)),
        Some(FROM) if key.len() == parts => Ok(Start::From(key)),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_given() {
        let key = vec!["ci/runner".to_owned(), "a.example".to_owned()];
        for start in [Start::After(key.clone()), Start::From(key.clone())] {
            let page = Page::read(Some(3), Some(&start.cursor()), 2).unwrap();
            assert_eq!(page.start.as_ref(), Some(&start));
            assert_eq!(start.admits(&key), start == Start::From(key.clone()));
            assert!(!start.admits(&["ci/runner".into(), "a".into()]));
            assert!(start.admits(&["ci/z".into(), "a".into()]));
        }
        assert_eq!(Page::read(None, None, 2).unwrap(), Page { limit: DEFAULT, start: None });
    }

    #[test]
    fn what_is_no_cursor_of_this_list_is_refused() {
        let long = "A".repeat(LONGEST + 1);
        let another_form = URL_SAFE_NO_PAD.encode("b\0x\0y");
        for bad in
            ["!", "YQ==", &Start::After(vec!["one".into()]).cursor(), &long, &another_form, "\u{1b}[31m"]
        {
            assert_eq!(Page::read(None, Some(bad), 2).unwrap_err().status, 400, "{bad:?}");
        }
        for limit in [0, MAX + 1] {
            assert!(Page::read(Some(limit), None, 2).unwrap_err().detail.contains("from 1 to 1000"));
        }
    }
}
