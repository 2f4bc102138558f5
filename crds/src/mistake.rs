//! What is wrong in a file and where: one line each, `FILE:LINE:COL: message`.
//!
//! Readers collect mistakes and go on, so that a file's author sees all of them at once.

use std::{fmt, path::PathBuf};

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
}

/// One thing that is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mistake {
    /// The file, as the user named it.
    pub file: PathBuf,
    /// Line, counted from 1; 0 when the file cannot be read at all.
    pub line: usize,
    /// Column in characters, counted from 1; 0 when the file cannot be read at all.
    pub column: usize,
    /// The field, like `spec.egress[0].ports`; empty for the whole document.
    pub path: String,
    /// What is wrong and what to write.
    pub message: String,
}

/// Something an author should know that is no mistake (N3, N5).
pub type Warning = Mistake;

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:{}:", self.line, self.column)?;
        }
        f.write_str(" ")?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// One line for each mistake.
#[must_use]
pub fn render(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n")
}

/// All mistakes of one reading, as an error for those who only pass it on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", render(.0))]
pub struct Mistakes(pub Vec<Mistake>);
