//! `docs/promises.md` names tests for each promise; here it is seen that they exist.

use std::{fs, path::Path};

/// The words in backticks of a line of the table.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn tests_of_promises_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(root.join("docs/promises.md")).unwrap();
    let rows: Vec<_> =
        table.lines().filter(|line| line.starts_with("| ") && line.contains(".rs` ")).collect();
    for promise in '1'..='8' {
        assert!(rows.iter().any(|row| row.starts_with(&format!("| {promise} "))), "promise {promise}");
    }
    for row in rows {
        let [file, test] = quoted(row)[..] else { panic!("a file and a test are wanted: {row}") };
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}()")), "{file} has no test {test}");
    }
}
