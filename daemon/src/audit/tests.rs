use std::{fs, path::PathBuf};

use super::{verify::Fault, *};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nwt{}-audit-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn options(&self, max_bytes: u64) -> AuditOptions {
        AuditOptions { place: AuditPlace::File(self.0.join("audit.log")), max_bytes, keep: 3 }
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn encode(what: &u64) -> Value {
    json!({"class_uid": 4001, "message": format!("number {what}")})
}

fn write(options: &AuditOptions, count: u64) {
    let log = AuditLog::start(options, "test", encode).unwrap();
    (0..count).for_each(|number| log.record(Timestamp::UNIX_EPOCH, number));
}

#[test]
fn what_was_recorded_is_there_and_complete() {
    let folder = Folder::new("whole");
    let options = folder.options(1 << 20);
    write(&options, 100);
    write(&options, 10);
    let text = folder.text("audit.log");
    let verified = verify::verify(text.lines());
    assert_eq!(
        (verified.records, verified.runs, verified.declared_lost, verified.broken_off),
        (110, 2, 0, 0)
    );
    assert!(verified.is_complete());
    let first: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&first["metadata"]["sequence"], &first["metadata"]["version"]), (&1.into(), &"1.8.0".into()));
}

#[test]
fn what_somebody_took_away_is_missed() {
    let folder = Folder::new("taken");
    write(&folder.options(1 << 20), 10);
    let text = folder.text("audit.log");
    let without = |taken: &[usize]| {
        let lines =
            text.lines().enumerate().filter(|(number, _)| !taken.contains(number)).map(|(_, line)| line);
        verify::verify(lines)
    };
    assert_eq!(without(&[3, 4]).faults, [Fault::Missing { line: 4, from: 3, to: 4 }]);
    // The last record before the end is missed by the end.
    assert_eq!(without(&[10]).faults, [Fault::Missing { line: 11, from: 10, to: 10 }]);
    assert_eq!(without(&[11]).broken_off, 1);
    // The beginning may have been turned over.
    assert!(without(&[0, 1, 2]).is_complete());
    let doubled = format!("{text}{}", text.lines().nth(5).unwrap());
    assert_eq!(verify::verify(doubled.lines()).faults, [Fault::Repeated { line: 13, sequence: 5 }]);
    assert_eq!(verify::verify(["{\"a\":1}"].into_iter()).faults, [Fault::Unreadable { line: 1 }]);
}

#[test]
fn a_file_stays_within_its_size_and_the_oldest_goes() {
    let folder = Folder::new("size");
    write(&folder.options(2_000), 50);
    let sizes: Vec<usize> = ["audit.log", "audit.log.1", "audit.log.2", "audit.log.3"]
        .iter()
        .map(|name| folder.text(name).len())
        .collect();
    assert!(sizes.iter().all(|size| (1..=2_000).contains(size)), "{sizes:?}");
    assert_eq!(folder.text("audit.log.4"), "");
    let all =
        ["audit.log.3", "audit.log.2", "audit.log.1", "audit.log"].map(|name| folder.text(name)).concat();
    assert!(verify::verify(all.lines()).is_complete());
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let folder = Folder::new("moved");
    let log = AuditLog::start(&folder.options(1 << 20), "test", encode).unwrap();
    log.record(Timestamp::UNIX_EPOCH, 1);
    while folder.text("audit.log").lines().count() < 2 {
        thread::yield_now();
    }
    fs::rename(folder.0.join("audit.log"), folder.0.join("moved")).unwrap();
    while !folder.0.join("audit.log").exists() {
        thread::sleep(Duration::from_millis(20));
    }
    log.record(Timestamp::UNIX_EPOCH, 2);
    drop(log);
    let all = folder.text("moved") + &folder.text("audit.log");
    assert_eq!(verify::verify(all.lines()).records, 2);
    assert!(verify::verify(all.lines()).is_complete());
}

/// Nobody waits for a disk that does not take anything; what is lost is counted, and told when it goes on.
#[test]
fn what_cannot_be_written_is_lost_and_said() {
    let folder = Folder::new("full");
    let (sender, queue) = sync_channel(4);
    let log: AuditLog<u64> = AuditLog {
        entry: Mutex::new(Entry { sequence: 0, queue: Some(sender) }),
        counts: Arc::default(),
        thread: None,
    };
    // The writer sleeps: four wait, six are lost, and nobody waited.
    (0..10).for_each(|number| log.record(Timestamp::UNIX_EPOCH, number));
    assert_eq!(log.counts(), AuditCounts { written: 0, lost: 6 });
    let output = Output::open(&folder.options(1 << 20)).unwrap();
    let writer = Writer {
        output,
        process: "test",
        encode,
        epoch: 7,
        counts: Arc::clone(&log.counts),
        last: 0,
        failing: false,
    };
    let writing = thread::spawn(move || writer.run(&queue));
    while log.counts().written < 4 {
        thread::yield_now();
    }
    log.record(Timestamp::UNIX_EPOCH, 10);
    drop(log);
    writing.join().unwrap();
    let verified = verify::verify(folder.text("audit.log").lines());
    assert_eq!((verified.records, verified.declared_lost, verified.is_complete()), (5, 6, true));
}
