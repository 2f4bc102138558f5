//! Tables of `docs/` name tests; here it is seen that they exist.

use std::{fs, path::Path};

/// The words in backticks of the column that names a file.
fn quoted(row: &str) -> Vec<&str> {
    let cell = row.split(" | ").find(|cell| cell.contains(".rs` ")).unwrap_or_default();
    cell.split('`').skip(1).step_by(2).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Rows of a table that name a test, each of which exists.
fn rows(file: &str) -> Vec<String> {
    let table = fs::read_to_string(root().join(file)).unwrap();
    let rows: Vec<_> =
        table.lines().filter(|line| line.starts_with("| ") && line.contains(".rs` ")).collect();
    for row in &rows {
        let [file, test] = quoted(row)[..] else { panic!("a file and a test are wanted: {row}") };
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
    rows.into_iter().map(str::to_owned).collect()
}

fn assert_has(rows: &[String], first: &str) {
    assert!(rows.iter().any(|row| row.starts_with(&format!("| {first} "))), "no row begins with {first}");
}

#[test]
fn tests_of_promises_exist() {
    let rows = rows("docs/promises.md");
    (1..=8).for_each(|promise| assert_has(&rows, &promise.to_string()));
}

#[test]
fn tests_of_meanings_exist() {
    let rows = rows("docs/meanings.md");
    for (letter, last) in [('N', 6), ('Q', 10), ('A', 9)] {
        (1..=last).for_each(|number| assert_has(&rows, &format!("{letter}{number}")));
    }
}
