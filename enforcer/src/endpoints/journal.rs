//! The names behind the kernel's addresses, on disk: what a restart needs to go on where its predecessor stopped.
//!
//! A file of JSON lines an endpoint; a line is in the file before the grant it belongs to is acknowledged. It lives
//! as long as the kernel's maps: a file of an earlier boot is begun anew. Writes are not forced to the disk, because
//! they have to outlive this process, not the kernel.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
};

use nameward_policy::{Binding, NameSet};
use serde::{Deserialize, Serialize};

/// Version of the lines.
const FORMAT: u32 = 1;
/// A first line is never longer, in bytes.
const LONGEST_BEGIN: u64 = 256;
/// Lines after which the file is written anew with what is live.
const COMPACT_AT: usize = 4_096;

/// One thing to remember.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// First line: which kernel the rest is about.
    Begin { format: u32, boot: String },
    /// Addresses of a name.
    Binding(Binding),
    /// The set of names that an id in the maps stands for.
    Names(NameSet),
}

/// The file of one endpoint.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    boot: String,
    file: File,
    lines: usize,
}

impl Journal {
    /// Opens or begins the file and returns what it holds about this boot. What cannot be read ends it: the lines
    /// before count.
    pub(crate) fn open(path: &Path, boot: &str) -> io::Result<(Self, Vec<Entry>)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let entries = read(path, boot)?;
        let mut journal = Self {
            path: path.into(),
            boot: boot.into(),
            file: OpenOptions::new().append(true).create(true).open(path)?,
            lines: 0,
        };
        journal.rewrite(&entries)?;
        Ok((journal, entries))
    }

    /// Adds lines; they have left this process when it returns.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        self.file.write_all(&text(entries)?)?;
        self.lines += entries.len();
        Ok(())
    }

    /// Whether enough was added to write the file anew.
    pub(crate) fn is_long(&self) -> bool {
        self.lines >= COMPACT_AT
    }

    /// Replaces the file by one with these entries.
    pub(crate) fn rewrite(&mut self, entries: &[Entry]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut lines = text(&[Entry::Begin { format: FORMAT, boot: self.boot.clone() }])?;
        lines.extend(text(entries)?);
        fs::write(&fresh, lines)?;
        fs::rename(&fresh, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.lines = entries.len();
        Ok(())
    }

    /// Removes the file.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Name of the file of an endpoint.
pub(crate) fn file_name(uid: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => (byte as char).to_string(),
        other => format!("~{other:02x}"),
    };
    uid.bytes().map(escape).collect::<String>() + ".names"
}

/// Whether a file is one of these, or a rewrite of one that was cut off.
pub(crate) fn is_ours(path: &Path) -> bool {
    let begins = |file: File| {
        let mut line = String::new();
        BufReader::new(file).take(LONGEST_BEGIN).read_line(&mut line).is_ok()
            && matches!(serde_json::from_str(&line), Ok(Entry::Begin { .. }))
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("names" | "new") => File::open(path).is_ok_and(begins),
        _ => false,
    }
}

/// Identifier of the running kernel's boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn text(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut lines = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut lines, entry)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

fn read(path: &Path, boot: &str) -> io::Result<Vec<Entry>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut lines = BufReader::new(file).lines().map_while(Result::ok);
    let parse = |line: String| serde_json::from_str::<Entry>(&line).ok();
    match lines.next().and_then(parse) {
        Some(Entry::Begin { format: FORMAT, boot: theirs }) if theirs == boot => {}
        _ => return Ok(Vec::new()),
    }
    Ok(lines.map_while(parse).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nameward_policy::{BootTime, Lease, Name};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nwt{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn binding(name: &str) -> Entry {
        let lease = Lease {
            address: "198.51.100.7".parse().unwrap(),
            ttl_ends: BootTime(90),
            expires_at: BootTime(99),
        };
        Entry::Binding(Binding {
            name: Name::parse(name).unwrap(),
            chain: [Name::parse("edge.example.net").unwrap()].into(),
            asked_at: BootTime(1),
            grace: Duration::from_secs(600),
            addresses: [lease].into_iter().collect(),
        })
    }

    // Promise 4
    #[test]
    fn a_restart_finds_what_was_acknowledged() {
        let folder = Folder::new("journal");
        let path = folder.0.join("runner.names");
        let (mut journal, before) = Journal::open(&path, "boot-1").unwrap();
        assert_eq!(before, []);
        let entries = [
            binding("example.com"),
            Entry::Names(NameSet { id: 3, names: vec![Name::parse("example.com").unwrap()] }),
        ];
        journal.append(&entries).unwrap();
        drop(journal);
        let (journal, found) = Journal::open(&path, "boot-1").unwrap();
        assert_eq!(found, entries);
        drop(journal);
        assert!(is_ours(&path));
        let (_, after_reboot) = Journal::open(&path, "boot-2").unwrap();
        assert_eq!(after_reboot, []);
        let other = folder.0.join("other.names");
        fs::write(&other, "text of somebody else\n").unwrap();
        assert!(!is_ours(&other));
    }

    #[test]
    fn a_line_cut_off_by_a_crash_costs_only_itself() {
        let folder = Folder::new("journal-cut");
        let path = folder.0.join("runner.journal");
        let (mut journal, _) = Journal::open(&path, "boot").unwrap();
        journal.append(&[binding("example.com"), binding("example.org")]).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let (mut journal, found) = Journal::open(&path, "boot").unwrap();
        assert_eq!(found, [binding("example.com")]);
        journal.append(&[binding("example.net")]).unwrap();
        drop(journal);
        let (_, found) = Journal::open(&path, "boot").unwrap();
        assert_eq!(found, [binding("example.com"), binding("example.net")]);
    }
}
