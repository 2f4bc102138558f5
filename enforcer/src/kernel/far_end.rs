//! The other end of a veth pair: which network namespace it is in, and its name there.
//!
//! The kernel says by which number our namespace knows that one; whose number it is, is asked of each namespace that
//! a process is in or that has a name (RTM_GETNSID, rtnetlink(7)). Where each was found is remembered, so that many
//! workloads do not cost their square; nothing is believed of that before the kernel has said it again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

use futures::StreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::LinkAttribute,
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::interface_name;
use crate::netns::{self, netlink};

/// The other end of an interface.
#[derive(Debug)]
pub(crate) struct FarEnd {
    /// Held open it lives on: not for longer than it takes.
    namespace: File,
    /// Its name there.
    pub(crate) interface: String,
}

impl FarEnd {
    /// Finds the other end of an interface of the calling thread's namespace. None when it is no pair, when both ends
    /// are here, or when no process and no file of `ip netns` stands for the namespace.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub(crate) fn find(interface: &str) -> io::Result<Option<Self>> {
        let found = netns::on_thread(|| {
            netlink(async |mut handle| {
                let Some(link) = link_elsewhere(&handle, interface).await else { return Ok(None) };
                let namespace = namespace_of(&mut handle, link.namespace).await;
                Ok(namespace.map(|namespace| (namespace, link.index)))
            })
        })?;
        let Some((namespace, index)) = found else { return Ok(None) };
        // It may go while it is looked for.
        let interface = inside(&namespace, || Ok(interface_name(index)))?;
        Ok(interface.map(|interface| Self { namespace, interface }))
    }

    /// Does `work` in its namespace, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        inside(&self.namespace, work)
    }
}

fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    netns::on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Where an interface's other end is.
struct LinkElsewhere {
    /// The number that our namespace has for that one.
    namespace: i32,
    index: u32,
}

async fn link_elsewhere(handle: &Handle, interface: &str) -> Option<LinkElsewhere> {
    let attributes = netns::link_named(handle, interface).await.ok()??.attributes;
    let (mut namespace, mut index) = (None, None);
    for attribute in &attributes {
        match attribute {
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::Link(at) => index = Some(*at),
            _ => {}
        }
    }
    Some(LinkElsewhere { namespace: namespace?, index: index? })
}

/// Where namespaces were found last, by number.
static FOUND: Mutex<BTreeMap<i32, PathBuf>> = Mutex::new(BTreeMap::new());

/// The namespace that ours knows by this number, if anything stands for it.
async fn namespace_of(handle: &mut Handle, number: i32) -> Option<File> {
    let found = || FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let known = found().get(&number).and_then(|path| File::open(path).ok());
    if let Some(known) = known
        && id_of(handle, &known).await == Some(number)
    {
        return Some(known);
    }
    let (mut places, mut wanted) = (BTreeMap::new(), None);
    for (path, namespace) in namespaces() {
        let Some(id) = id_of(handle, &namespace).await else { continue };
        if id == number {
            wanted = Some(namespace);
        }
        places.insert(id, path);
    }
    *found() = places;
    wanted
}

/// The number that our namespace has for another.
async fn id_of(handle: &mut Handle, namespace: &File) -> Option<i32> {
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    request.header.flags = NLM_F_REQUEST;
    let mut answers = handle.request(request).ok()?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(found)) = answer.payload {
            return found.attributes.iter().find_map(|attribute| match attribute {
                NsidAttribute::Id(id) => Some(*id),
                _ => None,
            });
        }
    }
    None
}

/// Every network namespace that a process is in, or that has a name, once.
fn namespaces() -> impl Iterator<Item = (PathBuf, File)> {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let processes = entries("/proc").map(|entry| entry.path().join("ns/net"));
    let named = entries("/run/netns").map(|entry| entry.path());
    let mut seen = BTreeSet::new();
    let unseen =
        move |path: &PathBuf| fs::metadata(path).is_ok_and(|found| seen.insert((found.dev(), found.ino())));
    processes.chain(named).filter(unseen).filter_map(|path| File::open(&path).ok().map(|file| (path, file)))
}
