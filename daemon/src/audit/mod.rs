//! The audit log: one JSON record a line, numbered without a gap, or with the gap said; OCSF 1.8 in its envelope.
//!
//! ```text
//! record()  --queue, bounded-->  a thread of its own: encode, write, rotate
//! ```
//!
//! Whoever records never waits: what does not fit into the queue, or cannot be written, is counted as lost, and the next
//! record that is written has a record of the loss before it. [`verify`] shows from the files alone that they are
//! complete. What a record says beyond its envelope is the business of the process.

mod place;
pub mod verify;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::place::{AuditOptions, AuditPlace};
use place::Output;

/// Records that may wait for the disk.
const QUEUE: usize = 16_384;
/// What has been written is given to the system after this time without more.
const FLUSH_AFTER: Duration = Duration::from_millis(200);
/// The schema that the envelope is of.
const OCSF: &str = "1.8.0";

/// Records written and lost since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditCounts {
    /// Written, without those about the log itself.
    pub written: u64,
    /// Not written: the queue was full, or the disk.
    pub lost: u64,
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
}

/// What is said of an occurrence: everything but the envelope.
pub type Encode<T> = fn(&T) -> Value;

/// The log. Dropping it writes what waits, and a record of the end.
#[derive(Debug)]
pub struct AuditLog<T> {
    entry: Mutex<Entry<T>>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Entry<T> {
    sequence: u64,
    /// None only while the log is dropped.
    queue: Option<SyncSender<Numbered<T>>>,
}

#[derive(Debug)]
struct Numbered<T> {
    sequence: u64,
    at: Timestamp,
    what: T,
}

impl<T: Send + 'static> AuditLog<T> {
    /// Opens the place and starts writing.
    ///
    /// # Errors
    /// When the place cannot be opened.
    pub fn start(options: &AuditOptions, process: &'static str, encode: Encode<T>) -> io::Result<Self> {
        let output = Output::open(options)?;
        let counts = Arc::<Counts>::default();
        let (sender, queue) = sync_channel(QUEUE);
        let epoch = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0);
        let writer =
            Writer { output, process, encode, epoch, counts: Arc::clone(&counts), last: 0, failing: false };
        let thread = thread::Builder::new().name("audit".into()).spawn(move || writer.run(&queue))?;
        Ok(Self {
            entry: Mutex::new(Entry { sequence: 0, queue: Some(sender) }),
            counts,
            thread: Some(thread),
        })
    }

    /// Records an occurrence. Never waits.
    pub fn record(&self, at: Timestamp, what: T) {
        let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        entry.sequence += 1;
        let numbered = Numbered { sequence: entry.sequence, at, what };
        let sent = entry.queue.as_ref().map(|queue| queue.try_send(numbered));
        match sent {
            Some(Ok(())) => {}
            Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) | None => {
                self.counts.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts so far.
    pub fn counts(&self) -> AuditCounts {
        AuditCounts {
            written: self.counts.written.load(Ordering::Relaxed),
            lost: self.counts.lost.load(Ordering::Relaxed),
        }
    }
}

impl<T> Drop for AuditLog<T> {
    fn drop(&mut self) {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner).queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the audit log's thread broke off");
        }
    }
}

/// The thread.
struct Writer<T> {
    output: Output,
    process: &'static str,
    encode: Encode<T>,
    epoch: u64,
    counts: Arc<Counts>,
    /// The last number that was written, or told as lost.
    last: u64,
    failing: bool,
}

impl<T> Writer<T> {
    fn run(mut self, queue: &Receiver<Numbered<T>>) {
        self.note("begin", json!({"message": "the audit log begins"}));
        loop {
            match queue.recv_timeout(FLUSH_AFTER) {
                Ok(numbered) => self.write(&numbered),
                Err(RecvTimeoutError::Timeout) => self.flush(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.note("end", json!({"message": "the audit log ends as planned"}));
        self.flush();
    }

    fn write(&mut self, numbered: &Numbered<T>) {
        if numbered.sequence > self.last + 1 && !self.tell_loss(numbered.sequence - 1) {
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut record = (self.encode)(&numbered.what);
        self.envelope(&mut record, numbered.sequence, numbered.at);
        if self.line(&record) {
            self.last = numbered.sequence;
            self.counts.written.fetch_add(1, Ordering::Relaxed);
        } else {
            // The number stays open: the next record tells the gap.
            self.counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tell_loss(&mut self, until: u64) -> bool {
        let (from, count) = (self.last + 1, until - self.last);
        let told = self.note(
            "loss",
            json!({"message": format!("{count} records were not written"), "lost": {"from": from, "to": until}}),
        );
        if told {
            self.last = until;
        }
        told
    }

    /// A record about the log itself (OCSF base event). It has the number of the record before it.
    fn note(&mut self, what: &str, fields: Value) -> bool {
        let mut record = json!({
            "activity_id": 99, "activity_name": what, "category_uid": 0, "class_uid": 0, "type_uid": 99, "severity_id": 1,
            "message": fields["message"], "unmapped": {"log": what},
        });
        if let Some(lost) = fields.get("lost") {
            record["unmapped"]["lost"] = lost.clone();
            record["severity_id"] = 4.into();
        }
        self.envelope(&mut record, self.last, Timestamp::now());
        self.line(&record)
    }

    fn envelope(&self, record: &mut Value, sequence: u64, at: Timestamp) {
        record["time"] = at.as_millisecond().into();
        record["metadata"] = json!({
            "version": OCSF,
            "product": {"name": self.process, "vendor_name": "Nameward", "version": env!("CARGO_PKG_VERSION")},
            "profiles": ["security_control", "host"],
            "uid": format!("{:x}-{sequence}", self.epoch),
            "correlation_uid": format!("{:x}", self.epoch),
            "sequence": sequence,
        });
    }

    /// Whether the line was written.
    fn line(&mut self, record: &Value) -> bool {
        match self.output.line(&record.to_string()) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the audit log is written again");
                }
                true
            }
            Err(error) => {
                self.complain(&error);
                false
            }
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.output.flush() {
            self.complain(&error);
        }
    }

    /// Once, until it works again.
    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!(%error, "the audit log cannot be written; what is lost is counted");
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
