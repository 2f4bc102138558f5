//! Where the log is written: standard output, or a file that is turned over when it is large. A file that somebody else
//! moved away (logrotate) is made anew.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditPlace {
    /// `-`.
    Stdout,
    /// A file.
    File(PathBuf),
}

impl FromStr for AuditPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("write a file, or - for standard output".into()),
            "-" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// How to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditOptions {
    /// Where.
    pub place: AuditPlace,
    /// A file that would be larger is turned over: it becomes `FILE.1`, that `FILE.2`, and so on.
    pub max_bytes: u64,
    /// So many of them are kept beside the file itself.
    pub keep: usize,
}

/// The place, open.
#[derive(Debug)]
pub(super) enum Output {
    Stdout(io::Stdout),
    File(RotatedFile),
}

impl Output {
    pub(super) fn open(options: &AuditOptions) -> io::Result<Self> {
        match &options.place {
            AuditPlace::Stdout => Ok(Self::Stdout(io::stdout())),
            AuditPlace::File(path) => Ok(Self::File(RotatedFile::open(path, options)?)),
        }
    }

    /// Writes one line, whole.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        let line = format!("{text}\n");
        match self {
            Self::Stdout(out) => out.lock().write_all(line.as_bytes()),
            Self::File(file) => file.line(line.as_bytes()),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.lock().flush(),
            Self::File(file) => file.look(),
        }
    }
}

/// A file of bounded size.
#[derive(Debug)]
pub(super) struct RotatedFile {
    path: PathBuf,
    max_bytes: u64,
    keep: usize,
    file: File,
    bytes: u64,
}

impl RotatedFile {
    fn open(path: &Path, options: &AuditOptions) -> io::Result<Self> {
        let (file, bytes) = append(path)?;
        Ok(Self { path: path.into(), max_bytes: options.max_bytes, keep: options.keep, file, bytes })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes {
            self.turn_over()?;
        }
        if let Err(error) = self.file.write_all(line) {
            // Half a line must not become part of the next.
            self.file.set_len(self.bytes)?;
            return Err(error);
        }
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Makes the file anew where somebody moved it away.
    fn look(&mut self) -> io::Result<()> {
        let own = self.file.metadata()?;
        let there =
            fs::metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == (own.dev(), own.ino()));
        if !there {
            (self.file, self.bytes) = append(&self.path)?;
        }
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            let (from, to) = (self.numbered(number), self.numbered(number + 1));
            ignore_absent(fs::rename(from, to))?;
        }
        if self.keep > 0 {
            ignore_absent(fs::rename(&self.path, self.numbered(1)))?;
        } else {
            ignore_absent(fs::remove_file(&self.path))?;
        }
        (self.file, self.bytes) = append(&self.path)?;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Opens for appending; only the owner and the group may read.
fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
