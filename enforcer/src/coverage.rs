//! What a fence does not hold although it is up. Looks and says so; it neither attaches nor denies anything.

use std::{collections::BTreeSet, fmt::Write, fs, io, path::Path};

use crate::kernel::{Attachment, FarEnd};

/// Capabilities in the host's user namespace with which a process passes the hooks of its cgroup by, or takes them
/// away: packet sockets, other interfaces, programs and maps.
const PASSING_BY: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];

/// Why a workload is not wholly covered; empty when it is. `judged_there`: arrivals are judged on the workload's side.
pub(crate) fn gaps(attachment: &Attachment, judged_there: bool) -> Vec<String> {
    match attachment {
        Attachment::Cgroup { path, .. } => privileged_processes(path).into_iter().collect(),
        Attachment::Interface { name } => {
            let fed = judged_there.then(|| {
                String::from(
                    "what reaches it is judged on its own side of the link: with NET_ADMIN in its namespace it can forge connections from outside, and answer them",
                )
            });
            fed.into_iter().chain(other_ways_out(name)).collect()
        }
    }
}

/// Says that answers were missed.
pub(crate) fn unseen_answers(connections: usize) -> Option<String> {
    (connections != 0).then(|| {
        format!(
            "answers to {connections} of its connections pass the host's side of its link by, as with bpf_redirect_peer: its servers cannot be reached unless `delivery: Peer` is set"
        )
    })
}

fn privileged_processes(cgroup: &Path) -> Option<String> {
    let own = fs::read_link("/proc/self/ns/user").ok()?;
    let mut found = Vec::new();
    let mut held = BTreeSet::new();
    for process in processes(cgroup) {
        let elsewhere = fs::read_link(format!("/proc/{process}/ns/user")).is_ok_and(|other| other != own);
        let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) else { continue };
        let reachable = if elsewhere { 0 } else { reachable_capabilities(&status) };
        let names: Vec<&str> =
            PASSING_BY.iter().filter(|(bit, _)| reachable >> bit & 1 == 1).map(|(_, name)| *name).collect();
        if !names.is_empty() {
            held.extend(names);
            found.push(format!("{process} ({})", field(&status, "Name").unwrap_or("?")));
        }
    }
    let first = found.first()?;
    let mut text = format!("process {first}");
    if found.len() > 1 {
        // Writing to a text cannot fail.
        let _written = write!(text, " and {} more", found.len() - 1);
    }
    let held: Vec<&str> = held.into_iter().collect();
    Some(format!(
        "{text} can use {}: packet sockets pass the hooks of a cgroup by; take these capabilities away, or fence an interface",
        held.join(", ")
    ))
}

/// Capabilities that a process has, or gets by its next execve(2), from the text of `/proc/PID/status` (proc(5)).
fn reachable_capabilities(status: &str) -> u64 {
    let mask = |name| field(status, name).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(0);
    let is_root = field(status, "Uid").and_then(|text| text.split_ascii_whitespace().nth(1)) == Some("0");
    let gains = is_root && field(status, "NoNewPrivs") != Some("1");
    mask("CapPrm") | mask("CapEff") | if gains { mask("CapBnd") } else { 0 }
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn processes(cgroup: &Path) -> Vec<u32> {
    let list = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<u32> = list.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

/// Interfaces beside the fenced one that lead out of the workload's namespace. None where that cannot be seen.
fn other_ways_out(interface: &str) -> Option<String> {
    let far = FarEnd::find(interface).ok()??;
    let others = far.inside(|| ways_out(&far.interface)).ok()?;
    (!others.is_empty()).then(|| {
        format!(
            "it has other interfaces that lead out of its namespace: {}; what leaves there is seen only where they are endpoints of their own",
            others.join(", ")
        )
    })
}

/// Interfaces of the calling thread's namespace whose other end or lower device is in another one, and devices.
fn ways_out(but: &str) -> io::Result<Vec<String>> {
    let links = crate::netns::links()?;
    let out = links.into_iter().filter(|link| link.name != but && link.leads_out);
    Ok(out.map(|link| link.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(uid: &str, prm: &str, bnd: &str, no_new_privileges: &str) -> String {
        format!(
            "Name:\tserver\nUid:\t1000\t{uid}\t1000\t1000\nCapInh:\t0\nCapPrm:\t{prm}\nCapEff:\t0000000000000000\n\
             CapBnd:\t{bnd}\nNoNewPrivs:\t{no_new_privileges}\n"
        )
    }

    // DESIGN 4
    #[test]
    fn capabilities_count_that_are_held_or_within_reach() {
        let none = "0000000000000000";
        let all = "000001ffffffffff";
        assert_eq!(reachable_capabilities(&status("1000", none, all, "0")), 0);
        assert_eq!(reachable_capabilities(&status("1000", "0000000000002000", all, "1")), 1 << 13);
        assert_eq!(reachable_capabilities(&status("0", none, "0000000000001000", "0")), 1 << 12);
        assert_eq!(reachable_capabilities(&status("0", none, all, "1")), 0);
        assert_eq!(reachable_capabilities("nonsense"), 0);
    }
}
