//! Pages of lists: how many items, and where the next page begins. A cursor names the last item that was given, so
//! that what comes and goes meanwhile makes no item come twice.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::Problem;

/// Items of a page when nothing else is asked for.
pub const DEFAULT: usize = 500;
/// Items of a page at most.
pub const MAX: usize = 1_000;
/// A longer cursor is none of ours.
const LONGEST: usize = 2_048;
/// Says what a cursor looks like inside; another form gets another letter.
const FORM: &str = "a";

/// Which page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// How many items at most.
    pub limit: usize,
    /// The key of the last item of the page before.
    pub after: Option<Vec<String>>,
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
        let after =
            cursor.filter(|cursor| !cursor.is_empty()).map(|cursor| decode(cursor, parts)).transpose()?;
        Ok(Self { limit, after })
    }

    /// Leaves the items of this page, of a list that may go on behind them, and returns the cursor of the next page.
    pub fn cut<T, const N: usize>(
        &self,
        items: &mut Vec<T>,
        key: impl Fn(&T) -> [String; N],
    ) -> Option<String> {
        let next = (items.len() > self.limit)
            .then(|| encode(&key(&items[self.limit - 1]).each_ref().map(String::as_str)));
        items.truncate(self.limit);
        next
    }
}

/// The cursor behind an item.
fn encode(key: &[&str]) -> String {
    let text = [&[FORM], key].concat().join("\0");
    URL_SAFE_NO_PAD.encode(text)
}

fn decode(cursor: &str, parts: usize) -> Result<Vec<String>, Problem> {
    let bad = || Problem::bad("cursor: pass on `next` of the page before as it is, or leave it out");
    if cursor.len() > LONGEST {
        return Err(bad());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    let mut all = text.split('\0').map(str::to_owned);
    if all.next().as_deref() != Some(FORM) {
        return Err(bad());
    }
    let key: Vec<String> = all.collect();
    if key.len() == parts { Ok(key) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_given() {
        let cursor = encode(&["ci/runner", "a.example"]);
        let page = Page::read(Some(3), Some(&cursor), 2).unwrap();
        assert_eq!(page.after.unwrap(), ["ci/runner", "a.example"]);
        assert_eq!(Page::read(None, None, 2).unwrap(), Page { limit: DEFAULT, after: None });
    }

    #[test]
    fn what_is_no_cursor_of_this_list_is_refused() {
        let long = "A".repeat(LONGEST + 1);
        let another_form = URL_SAFE_NO_PAD.encode("b\0x\0y");
        for bad in ["!", "YQ==", &encode(&["one"]), &long, &another_form, "\u{1b}[31m"] {
            assert_eq!(Page::read(None, Some(bad), 2).unwrap_err().status, 400, "{bad:?}");
        }
        for limit in [0, MAX + 1] {
            assert!(Page::read(Some(limit), None, 2).unwrap_err().detail.contains("from 1 to 1000"));
        }
    }
}
