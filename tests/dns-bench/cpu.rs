//! Processor time of a server, with its threads and children.

use std::{fs, time::Duration};

/// The processes of a server, which was started as the leader of a group of processes.
pub(crate) struct Group(Vec<u32>);

impl Group {
    /// The processes that belong to it now.
    pub(crate) fn of(leader: u32) -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self(numbers.filter(|process| group(*process) == Some(leader)).collect())
    }

    /// What all their threads have used so far: the scheduler's own count in nanoseconds (proc(5), schedstat).
    pub(crate) fn used(&self) -> Duration {
        let tasks = self.0.iter().filter_map(|process| fs::read_dir(format!("/proc/{process}/task")).ok());
        let used = tasks.flatten().flatten().filter_map(|task| {
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(used.sum())
    }

    /// Memory that is in use, in octets.
    pub(crate) fn resident(&self) -> u64 {
        let pages = self.0.iter().filter_map(|process| {
            let text = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        });
        pages.sum::<u64>() * 1_024
    }
}

/// The fifth field of `stat`, behind the name, which may contain anything.
fn group(process: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}
