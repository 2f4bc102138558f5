//! What is in a network namespace: its cookie, and where each of its interfaces leads.

use std::{fs::File, io, os::fd::AsRawFd};

use futures::TryStreamExt;
use nix::sched::{CloneFlags, setns};
use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
};

use crate::{
    kernel,
    netns::{netlink, on_thread},
};

/// A network namespace, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// Names it, until the machine is restarted.
    pub cookie: u64,
    /// Its interfaces, without loopback.
    pub interfaces: Vec<Interface>,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name inside.
    pub name: String,
    /// Where what is sent there goes.
    pub way: Way,
}

/// Where an interface leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// To an interface of our own network namespace, where it can be judged.
    Host {
        /// Its index there.
        index: u32,
    },
    /// Out of the namespace, past everything that could judge it: the kind of interface.
    Unguardable(String),
    /// Nowhere but into namespaces that the workload made itself.
    Nowhere,
}

/// Looks into a network namespace. "Our own" is that of the calling thread.
///
/// # Errors
/// When the kernel does not tell.
pub fn look(namespace: &File) -> io::Result<Inside> {
    let own = File::open("/proc/thread-self/ns/net")?;
    on_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        let cookie = kernel::netns_cookie().map_err(io::Error::other)?;
        let interfaces = netlink(async |mut handle| {
            let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
            // After the links: what has an end elsewhere gets a number for that namespace when it is listed.
            let host = number_of(&mut handle, &own).await?;
            let inner = links.iter().filter(|link| !link.header.flags.contains(LinkFlags::Loopback));
            Ok(inner.map(|link| interface(link, host)).collect())
        })?;
        Ok(Inside { cookie, interfaces })
    })
}

/// Name of an interface of our own network namespace; none when there is none of the index.
#[must_use]
pub fn name_of(index: u32) -> Option<String> {
    kernel::interface_name(index)
}

/// The number that another namespace has here; none when nothing here leads to it.
async fn number_of(handle: &mut rtnetlink::Handle, other: &File) -> Result<Option<i32>, rtnetlink::Error> {
    let mut question = NsidMessage::default();
    let descriptor = u32::try_from(other.as_raw_fd()).map_err(|_| rtnetlink::Error::RequestFailed)?;
    question.attributes.push(NsidAttribute::Fd(descriptor));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    message.header.flags = NLM_F_REQUEST;
    let mut answers = handle.request(message)?;
    while let Some(answer) = futures::StreamExt::next(&mut answers).await {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(message)) => {
                let id = message.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(id) => Some(*id),
                    _ => None,
                });
                // -1: nothing here leads there.
                return Ok(id.filter(|id| *id >= 0));
            }
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
            _ => {}
        }
    }
    Ok(None)
}

fn interface(link: &LinkMessage, host: Option<i32>) -> Interface {
    let (mut name, mut peer, mut namespace, mut kind) = (String::new(), None, None, None);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::Link(index) => peer = Some(*index),
            LinkAttribute::LinkNetNsId(id) => namespace = Some(*id),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.clone()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let leads_to_host = host.is_some() && namespace == host;
    Interface { name, way: way(kind.as_ref(), peer, leads_to_host) }
}

fn way(kind: Option<&InfoKind>, peer: Option<u32>, leads_to_host: bool) -> Way {
    match (kind, peer) {
        (Some(InfoKind::Veth), Some(index)) if leads_to_host => Way::Host { index },
        // A device of its own, like one that SR-IOV makes.
        (None, _) => Way::Unguardable("device".into()),
        (
            Some(
                kind @ (InfoKind::IpVlan
                | InfoKind::IpVtap
                | InfoKind::MacVlan
                | InfoKind::MacVtap
                | InfoKind::Netkit
                | InfoKind::Vlan
                | InfoKind::Ipoib),
            ),
            _,
        ) if leads_to_host => Way::Unguardable(kind.to_string()),
        (Some(_), _) => Way::Nowhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_interfaces_lead() {
        let unguardable = |kind: &str| Way::Unguardable(kind.into());
        let table = [
            (Some(InfoKind::Veth), Some(7), true, Way::Host { index: 7 }),
            (Some(InfoKind::Veth), Some(7), false, Way::Nowhere),
            (Some(InfoKind::Veth), None, false, Way::Nowhere),
            (Some(InfoKind::MacVlan), Some(2), true, unguardable("macvlan")),
            (Some(InfoKind::Netkit), Some(2), true, unguardable("netkit")),
            (Some(InfoKind::Vlan), Some(2), false, Way::Nowhere),
            (Some(InfoKind::Bridge), None, false, Way::Nowhere),
            (Some(InfoKind::Dummy), None, false, Way::Nowhere),
            (None, None, false, unguardable("device")),
        ];
        for (kind, peer, leads_to_host, expected) in table {
            assert_eq!(way(kind.as_ref(), peer, leads_to_host), expected, "{kind:?}");
        }
    }
}
