//! What was not carried over, what was refused, and what a reader should know: a line each, with place and reason.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use nameward_api::table::printable;
use nameward_crds::Place;

use super::at::At;

/// How much a note weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// A whole policy was not written: part of it would have been wider than it was.
    Refused,
    /// Something was not carried over; what was written allows less, never more.
    Left,
    /// Everything was carried over; this is good to know.
    Told,
}

/// One line.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) weight: Weight,
    file: PathBuf,
    place: Place,
    object: String,
    path: String,
    reason: String,
}

/// What a note is about when it is about no single field.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    pub(super) file: PathBuf,
    pub(super) place: Place,
    pub(super) object: String,
}

/// All notes of an import, in the order of what they are about.
#[derive(Debug, Default)]
pub(super) struct Notes {
    list: Vec<Note>,
    origin: Origin,
}

impl Notes {
    /// What the next notes are about.
    pub(super) fn about(&mut self, file: &Path, object: &str, place: Place) {
        self.origin = Origin { file: file.into(), place, object: object.into() };
    }

    /// Goes back to what was noted about before.
    pub(super) fn again(&mut self, origin: &Origin) {
        self.origin = origin.clone();
    }

    pub(super) const fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(super) fn left(&mut self, at: &At<'_>, reason: impl Into<String>) {
        self.left_at(at.place(), at.path.clone(), reason);
    }

    pub(super) fn left_at(&mut self, place: Place, path: impl Into<String>, reason: impl Into<String>) {
        self.push(Weight::Left, place, path.into(), reason.into());
    }

    pub(super) fn refused(&mut self, at: &At<'_>, reason: impl Into<String>) {
        self.push(Weight::Refused, at.place(), at.path.clone(), reason.into());
    }

    pub(super) fn told(&mut self, at: &At<'_>, reason: impl Into<String>) {
        self.push(Weight::Told, at.place(), at.path.clone(), reason.into());
    }

    pub(super) fn told_at(&mut self, place: Place, path: impl Into<String>, reason: impl Into<String>) {
        self.push(Weight::Told, place, path.into(), reason.into());
    }

    /// A note about the whole of what is being read.
    pub(super) fn whole(&mut self, weight: Weight, reason: impl Into<String>) {
        self.push(weight, self.origin.place, String::new(), reason.into());
    }

    /// How much was lost so far.
    pub(super) fn lost(&self) -> usize {
        self.list.iter().filter(|note| note.weight != Weight::Told).count()
    }

    /// How many policies were refused, whole or in a part.
    pub(super) fn refusals(&self) -> usize {
        self.list.iter().filter(|note| note.weight == Weight::Refused).count()
    }

    pub(super) fn list(&self) -> &[Note] {
        &self.list
    }

    fn push(&mut self, weight: Weight, place: Place, path: String, reason: String) {
        let Origin { file, object, .. } = self.origin.clone();
        self.list.push(Note { weight, file, place, object, path, reason });
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = format!("{}:", self.file.display());
        if self.place.line > 0 {
            line += &format!("{}:{}:", self.place.line, self.place.column);
        }
        for part in [&self.object, &self.path] {
            if !part.is_empty() {
                line += &format!(" {part}:");
            }
        }
        let weight = match self.weight {
            Weight::Refused => "refused",
            Weight::Left => "not carried over",
            Weight::Told => "note",
        };
        line += &format!(" {weight}: {}", self.reason);
        // Files are data of others: nothing in them may steer a terminal.
        f.write_str(&printable(&line))
    }
}
