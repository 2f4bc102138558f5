//! Interface endpoints: TCX programs in front of all others, on links that are pinned; filters on older kernels.
//!
//! What the workload sends enters the host at its interface (direction ingress): `pod_egress`. What it gets leaves
//! the host there (direction egress): `pod_ingress`.

use std::{fs, path::Path, thread};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, Program, ProgramError, SchedClassifier, TcAttachType,
        links::FdLink,
        tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
    },
};
use nameward_abi::programs;
use rtnetlink::packet_route::link::LinkLayerType;

use super::{FarEnd, KernelError, clsact, links, loading};
use crate::netns::{self, netlink};

/// A program, and the hook of the interface that it belongs to. What takes longer to load comes last, see [`loading`].
pub(super) const HOOKS: [(&str, TcAttachType); 2] =
    [(programs::POD_INGRESS, TcAttachType::Egress), (programs::POD_EGRESS, TcAttachType::Ingress)];

/// The program on the workload's side of a pair, and its hook.
const ARRIVALS: [(&str, TcAttachType); 1] = [(programs::POD_ARRIVAL, TcAttachType::Ingress)];

/// Index of an interface in the network namespace of the calling thread.
///
/// # Errors
/// [`KernelError::NoInterface`].
pub fn interface_index(name: &str) -> Result<u32, KernelError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| KernelError::NoInterface { name: name.into() })
}

/// Name of an interface in the network namespace of the calling thread; none when there is none of the index.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is where its mistake is mended")]
pub fn interface_name(index: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(index).ok()?.into_string().ok()?;
    // nix 0.31 takes the null pointer of libc for success: an index without an interface would have an empty name.
    Some(name).filter(|name| !name.is_empty())
}

/// Whether frames of an interface begin at the IP header (tun, WireGuard), instead of with an Ethernet header.
///
/// # Errors
/// [`KernelError::NoInterface`].
pub fn is_layer3(name: &str) -> Result<bool, KernelError> {
    let absent = || KernelError::NoInterface { name: name.into() };
    let found = netns::on_thread(|| netlink(async |handle| netns::link_named(&handle, name).await));
    let link = found.ok().flatten().ok_or_else(absent)?;
    Ok(link.header.link_layer_type != LinkLayerType::Ether)
}

/// A program at a hook of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachedProgram {
    /// The kernel's number of it.
    pub id: u32,
    /// Its name, cut off by the kernel at 15 bytes.
    pub name: String,
}

/// The TCX programs at an interface, first in order first: those that see what the workload sends, then those that
/// see what it gets.
///
/// # Errors
/// [`KernelError::Program`].
pub fn attached_programs(interface: &str) -> Result<[Vec<AttachedProgram>; 2], KernelError> {
    let query = |hook| -> Result<Vec<AttachedProgram>, KernelError> {
        let (_, programs) =
            SchedClassifier::query_tcx(interface, hook).map_err(|source| KernelError::Program {
                operation: "list",
                program: "order".into(),
                target: format!("at interface {interface}"),
                source: source.into(),
            })?;
        Ok(programs
            .into_iter()
            .map(|info| AttachedProgram {
                id: info.id(),
                name: info.name_as_str().unwrap_or_default().into(),
            })
            .collect())
    };
    Ok([query(TcAttachType::Ingress)?, query(TcAttachType::Egress)?])
}

/// Refuses the interface that the host's own traffic leaves by.
pub(super) fn refuse_default_route(name: &str) -> Result<(), KernelError> {
    let routes4 = fs::read_to_string("/proc/thread-self/net/route").unwrap_or_default();
    let routes6 = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
    if default_routes(&routes4, &routes6).any(|interface| interface == name) {
        return Err(KernelError::DefaultRoute { name: name.into() });
    }
    Ok(())
}

/// Interfaces of default routes, from the text of `/proc/net/route` and `/proc/net/ipv6_route`.
fn default_routes<'a>(routes4: &'a str, routes6: &'a str) -> impl Iterator<Item = &'a str> {
    let four = routes4.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (*fields.get(1)? == "00000000" && *fields.get(7)? == "00000000").then(|| fields[0])
    });
    let six = routes6.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let any = fields.first()?.bytes().all(|digit| digit == b'0') && *fields.get(1)? == "00";
        any.then_some(*fields.get(9)?)
    });
    four.chain(six).filter(|interface| *interface != "lo")
}

/// What holds programs at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// Links in an order of programs, from Linux 6.6 on.
    Tcx,
    /// Filters of a qdisc.
    Clsact,
}

/// Where our programs stand among all at an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In front of all others.
    First,
    /// Others see packets before us, and may keep them from us.
    Behind,
    /// Not there: the interface was made anew, or somebody took them away.
    Missing,
}

/// Whether pinned links are taken up, or new ones take their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// Programs are replaced in their links.
    TakeUp,
    /// New links, in front of all others; the old ones go when the new ones judge.
    Renew,
}

/// Where our programs stand; `arrivals`: also the one on the workload's side.
pub(super) fn order(
    interface: &str,
    pins: &Path,
    hooks: Hooks,
    arrivals: bool,
) -> Result<Order, KernelError> {
    let here = order_of(&HOOKS, interface, pins, hooks)?;
    if !arrivals || here != Order::First {
        return Ok(here);
    }
    let Some(far) = far_end(interface)? else { return Ok(Order::Missing) };
    far.inside(|| Ok(order_of(&ARRIVALS, &far.interface, pins, hooks)))
        .map_err(|error| KernelError::file("enter the namespace behind", interface, error))?
}

fn order_of(
    ours: &[(&str, TcAttachType)],
    interface: &str,
    pins: &Path,
    hooks: Hooks,
) -> Result<Order, KernelError> {
    if hooks == Hooks::Clsact {
        let attached = clsact::are_attached(ours, interface, pins)?;
        return Ok(if attached { Order::First } else { Order::Missing });
    }
    let [ingress, egress] = attached_programs(interface)?;
    let mut order = Order::First;
    for (program, hook) in ours {
        let programs = if *hook == TcAttachType::Ingress { &ingress } else { &egress };
        let pin = pin_path(pins, program);
        let Some(link) = links::open(&pin)? else { return Ok(Order::Missing) };
        let ours = link.info().map_err(|source| KernelError::Link {
            operation: "read",
            path: pin,
            source: source.into(),
        })?;
        match programs.iter().position(|program| program.id == ours.program_id()) {
            None => return Ok(Order::Missing),
            Some(0) => {}
            Some(_) => order = Order::Behind,
        }
    }
    Ok(order)
}

/// Attaches both programs, or puts them in the place of those that are attached.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    interface: &str,
    pins: &Path,
    links: Links,
    hooks: Hooks,
) -> Result<(), KernelError> {
    let known = |(program, _): &(&str, _)| pin_path(pins, program).exists();
    if hooks == Hooks::Tcx && (links == Links::Renew || !HOOKS.iter().any(known)) {
        return attach_anew(ebpf, interface, pins);
    }
    let names = HOOKS.map(|(program, _)| program);
    loading::load(&mut loading::select(ebpf, &names)?, &format!("at interface {interface}"))?;
    for (program, hook) in HOOKS {
        attach_one(ebpf, program, interface, hook, pins, links, hooks)?;
    }
    Ok(())
}

/// Attaches both programs by new links.
///
/// The kernel lets who makes a link wait until no processor uses what was there before: milliseconds, in which the
/// programs can be verified. So the links are made with a program that passes everything on, and get ours when both are
/// there; that does not wait.
fn attach_anew(ebpf: &mut Ebpf, interface: &str, pins: &Path) -> Result<(), KernelError> {
    let target = format!("at interface {interface}");
    let [(ingress, _), (egress, _)] = HOOKS;
    let mut programs = loading::select(ebpf, &[programs::PLACEHOLDER, ingress, egress])?;
    let (placeholder, ours) = programs.split_at_mut(1);
    loading::load(placeholder, &target)?;
    let links = thread::scope(|scope| {
        let links = scope.spawn(|| make_links(&mut placeholder[0], interface));
        let loaded = loading::load(ours, &target);
        let links = loading::joined(links);
        loaded.and(links)
    })?;
    for ((name, program), link) in ours.iter_mut().zip(links) {
        let classifier = classifier(name, program, interface)?;
        let failed = |source| KernelError::program("replace", name, target.clone(), source);
        let id = classifier.attach_to_link(link).map_err(failed)?;
        keep(classifier, id, name, interface, &pin_path(pins, name))?;
    }
    Ok(())
}

/// Links in front of all others at both hooks, with a program that passes everything on.
fn make_links(
    (name, program): &mut loading::Named<'_>,
    interface: &str,
) -> Result<Vec<SchedClassifierLink>, KernelError> {
    let classifier = classifier(name, program, interface)?;
    let failed = |source| KernelError::program("attach", name, format!("at interface {interface}"), source);
    HOOKS
        .iter()
        .map(|(_, hook)| {
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = classifier.attach_with_options(interface, *hook, first).map_err(failed)?;
            classifier.take_link(id).map_err(failed)
        })
        .collect()
}

fn classifier<'a>(
    name: &str,
    program: &'a mut Program,
    interface: &str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    program
        .try_into()
        .map_err(|source| KernelError::program("find", name, format!("at interface {interface}"), source))
}

/// Pins the link of an attached program.
fn keep(
    classifier: &mut SchedClassifier,
    id: SchedClassifierLinkId,
    program: &str,
    interface: &str,
    pin: &Path,
) -> Result<(), KernelError> {
    let link = classifier.take_link(id).map_err(|source| {
        KernelError::program("keep", program, format!("at interface {interface}"), source)
    })?;
    let link = FdLink::try_from(link).map_err(|source| KernelError::Link {
        operation: "keep",
        path: pin.into(),
        source: source.into(),
    })?;
    links::pin_over(link, pin)
}

/// Attaches the program on the workload's side of a pair, or replaces it.
pub(super) fn attach_arrivals(
    ebpf: &mut Ebpf,
    interface: &str,
    pins: &Path,
    links: Links,
    hooks: Hooks,
) -> Result<(), KernelError> {
    let far = far_end(interface)?.ok_or_else(|| KernelError::NoFarEnd { name: interface.into() })?;
    let [(program, hook)] = ARRIVALS;
    let attach = || Ok(attach_one(ebpf, program, &far.interface, hook, pins, links, hooks));
    far.inside(attach).map_err(|error| KernelError::file("enter the namespace behind", interface, error))?
}

/// Removes the program from the workload's side, where there is one.
pub(super) fn detach_arrivals(interface: Option<&str>, pins: &Path) -> Result<(), KernelError> {
    let [(program, _)] = ARRIVALS;
    links::unpin(&pin_path(pins, program))?;
    if !clsact::has_pins(&ARRIVALS, pins) {
        return Ok(());
    }
    // With the namespace the filter is gone as well.
    let far = interface.map(far_end).transpose()?.flatten();
    match far {
        Some(far) => {
            far.inside(|| Ok(clsact::remove(&ARRIVALS, Some(&far.interface), pins))).map_err(|error| {
                KernelError::file("enter the namespace behind", interface.unwrap_or_default(), error)
            })?
        }
        None => clsact::remove(&ARRIVALS, None, pins),
    }
}

fn far_end(interface: &str) -> Result<Option<FarEnd>, KernelError> {
    FarEnd::find(interface).map_err(|error| KernelError::file("look behind", interface, error))
}

/// Removes filters, which pins of links do not hold; `index`: the interface that they were attached to.
pub(super) fn remove_filters(index: u32, pins: &Path) -> Result<(), KernelError> {
    let name = interface_name(index);
    if clsact::has_pins(&ARRIVALS, pins) {
        detach_arrivals(name.as_deref(), pins)?;
    }
    if !clsact::has_pins(&HOOKS, pins) {
        return Ok(());
    }
    clsact::remove(&HOOKS, name.as_deref(), pins)
}

/// Where the link of a program is pinned.
fn pin_path(pins: &Path, program: &str) -> std::path::PathBuf {
    pins.join(format!("link_{program}"))
}

/// Attaches one program first in order, or replaces the program of its pinned link.
pub(super) fn attach_one(
    ebpf: &mut Ebpf,
    program: &str,
    interface: &str,
    hook: TcAttachType,
    pins: &Path,
    links: Links,
    hooks: Hooks,
) -> Result<(), KernelError> {
    let failed = |operation| {
        move |source: ProgramError| {
            KernelError::program(operation, program, format!("at interface {interface}"), source)
        }
    };
    let found = ebpf
        .program_mut(program)
        .ok_or_else(|| KernelError::Missing { what: "program", name: program.into() })?;
    let classifier = classifier(program, found, interface)?;
    match classifier.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
        Err(error) => return Err(failed("load")(error)),
    }
    if hooks == Hooks::Clsact {
        return clsact::attach(classifier, program, interface, hook, pins);
    }
    let pin = pin_path(pins, program);
    if links == Links::TakeUp
        && let Some(link) = links::open(&pin)?
    {
        let link = SchedClassifierLink::try_from(link).map_err(|source| KernelError::Link {
            operation: "adopt",
            path: pin.clone(),
            source: source.into(),
        })?;
        match classifier.attach_to_link(link) {
            Ok(_) => return Ok(()),
            Err(error) if links::is_severed(&error) => links::unpin(&pin)?,
            Err(error) => return Err(failed("replace")(error)),
        }
    }
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = classifier.attach_with_options(interface, hook, first).map_err(failed("attach"))?;
    keep(classifier, id, program, interface, &pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_without_an_interface_has_no_name() {
        let loopback = interface_index("lo").unwrap();
        assert_eq!(interface_name(loopback).as_deref(), Some("lo"));
        assert_eq!(interface_name(u32::from(u16::MAX) << 12), None);
    }

    #[test]
    fn default_routes_of_both_families_are_found() {
        let four = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                    eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                    veth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zeros = "0".repeat(32);
        let six = format!(
            "{zeros} 00 {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 eth1\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200 lo\n\
             20010db8{} 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001 veth2\n",
            "0".repeat(24)
        );
        assert_eq!(default_routes(four, &six).collect::<Vec<_>>(), ["eth0", "eth1"]);
    }
}
