//! Tables for people: columns as kubectl has them. Names and labels come from outside and are data: whatever could
//! steer a terminal is shown as a number.

use crate::types::Item;

/// A list as a table.
pub fn of_items<T: Item>(items: &[T]) -> String {
    let rows: Vec<Vec<String>> = items.iter().map(Item::row).collect();
    render(&T::columns(), &rows)
}

/// Heads and lines with aligned columns.
pub fn render(heads: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heads.get(column).map(|head| head.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let heads: Vec<String> = heads.iter().map(ToString::to_string).collect();
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(&rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// The text with everything that a terminal might obey, or that turns the direction of writing, as `\u{…}`.
pub fn printable(text: &str) -> String {
    let turns = |character| matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks =
        |character| matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{200b}'..='\u{200d}');
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || turns(character) || breaks(character) {
            printable.extend(character.escape_unicode());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "long name".into()], vec!["bcd".into(), "x".into()]];
        assert_eq!(render(&["ID", "NAME"], &rows), "ID    NAME\na     long name\nbcd   x\n");
        assert_eq!(render(&["ID"], &[]), "ID\n");
    }

    #[test]
    fn nothing_steers_a_terminal() {
        let hostile = "\u{1b}]0;title\u{7}\u{1b}[2Ja\r\nb\u{9b}31m\u{202e}c\u{200b}";
        let shown = printable(hostile);
        assert!(shown.chars().all(|character| !character.is_control() && character.is_ascii()), "{shown}");
        assert!(shown.contains("\\u{1b}]0;title") && shown.contains("\\u{202e}c"), "{shown}");
        assert_eq!(printable("müller.example"), "müller.example");
        assert_eq!(render(&["N"], &[vec![hostile.into()]]).lines().count(), 2);
    }
}
