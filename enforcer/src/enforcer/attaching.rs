//! How endpoints come, are taken up again, and go.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use nameward_abi::{DnsRedirect, Identity as AnswersTo, flags};
use nameward_feed::{Identity, sockets::DnsSocket};
use nameward_policy::Delivery;

use super::{EndpointConfig, Enforcer, EnforcerError, Guarded};
use crate::{
    connections::Connection,
    dns_link::{DnsLink, IDENTITIES},
    endpoints::{
        Endpoint,
        journal::{self, Entry, Journal},
    },
    gateway::Following,
    kernel::{
        Attachment, EndpointSpec, KernelEndpoint, KernelError, MapSizes, interface_index, interface_name,
        is_layer3,
    },
    loopback_dns::LoopbackDns,
    workload,
};

/// What brings an endpoint's DNS to a resolver.
struct DnsRoad {
    redirect: DnsRedirect,
    identity: Vec<Identity>,
    index: Option<u16>,
    listeners: Vec<DnsSocket>,
}

impl Enforcer {
    /// Attaches an endpoint, or takes it up as it is: names, rules and flows of an earlier process go on. Until
    /// [`apply_rules`](Enforcer::apply_rules), a new one denies everything.
    ///
    /// # Errors
    /// [`EnforcerError`]; a new endpoint then leaves nothing behind.
    pub fn apply_endpoint(&self, config: EndpointConfig) -> Result<(), EnforcerError> {
        let uid = config.uid.clone();
        let _one_at_a_time = self.0.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.guarded(&uid).ok();
        if known.as_ref().is_some_and(|known| known.config == config) {
            return Ok(());
        }
        // Grants wait: what is granted meanwhile would be forgotten by the one that takes its place.
        let held = known.as_ref().map(|known| known.lock());
        let before = self.0.host.open_endpoint(&uid).and_then(|endpoint| endpoint.config()).ok();
        let found = match (&known, &before) {
            (_, None) => live_before(&config),
            (Some(known), Some(_)) => known.found.clone(),
            (None, Some(_)) => Vec::new(),
        };
        let road = self.dns_road(&config, before.map(|config| config.dns).as_ref())?;
        let spec = EndpointSpec {
            addresses: config.addresses.clone(),
            dns: road.redirect,
            sizes: MapSizes {
                addresses: config.settings.limits.addresses,
                flows: config.settings.limits.flows,
                ..MapSizes::default()
            },
            allow_host: config.allow_host,
            arrivals: config.settings.delivery == Delivery::Peer,
            ..EndpointSpec::new(&*uid, config.attachment.clone())
        };
        let store = self.0.host.attach(&spec)?;
        let number = store.number();
        let gateway = store.gateway()?;
        let endpoint = self.open_endpoint(&config, store)?;
        let DnsRoad { identity, index, listeners, .. } = road;
        let endpoint = Mutex::new(endpoint);
        let guarded = Guarded {
            config,
            spec,
            number,
            identity,
            index,
            listeners,
            endpoint,
            trouble: Mutex::default(),
            gone_since: Mutex::default(),
            found,
            gaps: Mutex::default(),
            gateway: Mutex::new(Following::new(gateway)),
            is_full: AtomicBool::new(false),
            untold: AtomicU64::new(known.as_ref().map_or(0, |known| known.untold.load(Ordering::Relaxed))),
            is_retired: AtomicBool::new(false),
        };
        if before.is_none() {
            guarded.keep_gateway();
        }
        self.0.endpoints.write().unwrap_or_else(PoisonError::into_inner).insert(uid, Arc::new(guarded));
        if let Some(known) = &known {
            known.is_retired.store(true, Ordering::Release);
        }
        drop(held);
        Ok(())
    }

    /// Detaches an endpoint and frees all it had. Also one that only an earlier process knew.
    ///
    /// # Errors
    /// [`EnforcerError::Kernel`].
    pub fn remove_endpoint(&self, uid: &str) -> Result<(), EnforcerError> {
        let known = self.0.endpoints.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
        let mut held = known.as_ref().map(|known| known.lock());
        self.0.host.remove(uid)?;
        if let (Some(guarded), Some(endpoint)) = (&known, &mut held) {
            guarded.is_retired.store(true, Ordering::Release);
            endpoint.forget_journal();
            if let Some((four, six)) = guarded.index.map(DnsLink::identity) {
                self.0.host.forget_identity(four.into());
                self.0.host.forget_identity(six.into());
            }
        } else if let Some(path) = self.journal_path(uid)
            && let Err(error) = std::fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(endpoint = uid, %error, "a file of names of a removed endpoint stays");
        }
        self.0.decisions.removed(uid);
        self.0.subjects.write().unwrap_or_else(PoisonError::into_inner).remove(uid);
        Ok(())
    }

    /// Identifiers of all endpoints that are attached, also of those that only an earlier process knew.
    ///
    /// # Errors
    /// [`EnforcerError::Kernel`].
    pub fn attached(&self) -> Result<Vec<String>, EnforcerError> {
        Ok(self.0.host.endpoints()?)
    }

    /// Index of the interface that an endpoint was attached to, also by an earlier process; none where it is not attached to
    /// any. There may be no such interface any more.
    pub fn interface_of(&self, uid: &str) -> Option<u32> {
        let config = self.0.host.open_endpoint(uid).and_then(|endpoint| endpoint.config()).ok()?;
        Some(config.ifindex).filter(|index| *index != 0)
    }

    /// Whether the interface that an endpoint was attached to is still there, also by an earlier process.
    pub fn is_place_there(&self, uid: &str) -> bool {
        self.interface_of(uid).is_some_and(|index| interface_name(index).is_some())
    }

    /// The own addresses that an endpoint has in the kernel, also by an earlier process; none where it is not attached.
    pub fn addresses_of(&self, uid: &str) -> Vec<IpAddr> {
        let config = self.0.host.open_endpoint(uid).and_then(|endpoint| endpoint.config());
        let own = config.into_iter().flat_map(|config| config.own);
        let addresses = own.filter(|bytes| *bytes != [0; 16]);
        addresses.map(|bytes| Ipv6Addr::from(bytes).to_canonical()).collect()
    }

    /// Takes everything of this instance away: endpoints, links, maps, files.
    ///
    /// # Errors
    /// The first [`EnforcerError`]; the rest is taken away nevertheless.
    pub fn remove_all(&self) -> Result<(), EnforcerError> {
        let mut result = Ok(());
        for uid in self.attached()? {
            result = result.and(self.remove_endpoint(&uid));
        }
        if let Some(link) = &self.0.link {
            result = result.and(link.remove().map_err(Into::into));
        }
        result.and(self.0.host.remove_all().map_err(Into::into))
    }

    fn open_endpoint(
        &self,
        config: &EndpointConfig,
        store: KernelEndpoint,
    ) -> Result<Endpoint<KernelEndpoint>, EnforcerError> {
        let (journal, known) = self.open_journal(&config.uid)?;
        let link_flags = match &config.attachment {
            Attachment::Interface { name } if is_layer3(name)? => flags::LAYER3,
            Attachment::Interface { .. } | Attachment::Cgroup { .. } => 0,
        };
        Endpoint::new(store, config.settings.limits, journal, &known, link_flags)
            .map_err(|source| EnforcerError::Endpoint { uid: config.uid.clone(), source: Box::new(source) })
    }

    fn open_journal(&self, uid: &Arc<str>) -> Result<(Option<Journal>, Vec<Entry>), EnforcerError> {
        let Some(path) = self.journal_path(uid) else { return Ok((None, Vec::new())) };
        let (journal, known) = Journal::open(&path, &self.0.boot).map_err(|source| EnforcerError::Io {
            operation: "open the file of names",
            uid: uid.clone(),
            source,
        })?;
        Ok((Some(journal), known))
    }

    fn journal_path(&self, uid: &str) -> Option<PathBuf> {
        Some(self.0.state.as_ref()?.join(journal::file_name(uid)))
    }

    fn dns_road(
        &self,
        config: &EndpointConfig,
        before: Option<&DnsRedirect>,
    ) -> Result<DnsRoad, EnforcerError> {
        match (&config.attachment, &self.0.link) {
            (Attachment::Interface { name }, Some(link)) => self.link_road(config, name, link, before),
            (Attachment::Interface { .. }, None) => Ok(DnsRoad {
                redirect: DnsRedirect::default(),
                identity: Vec::new(),
                index: None,
                listeners: Vec::new(),
            }),
            (Attachment::Cgroup { .. }, _) => {
                let failed = |source| EnforcerError::Io {
                    operation: "listen for DNS",
                    uid: config.uid.clone(),
                    source,
                };
                // Ports of an endpoint that was at an interface belong to the link's own namespace.
                let before = before.filter(|before| index_of(before).is_none());
                let dns = LoopbackDns::open(&config.settings.dns.trusted, before).map_err(failed)?;
                let identity = dns.identity();
                Ok(DnsRoad { redirect: dns.redirect, identity, index: None, listeners: dns.sockets })
            }
        }
    }

    fn link_road(
        &self,
        config: &EndpointConfig,
        interface: &str,
        link: &DnsLink,
        before: Option<&DnsRedirect>,
    ) -> Result<DnsRoad, EnforcerError> {
        let index = self.identity_index(&config.uid, before)?;
        self.answer_at(index, interface)?;
        let (four, six) = DnsLink::identity(index);
        let addresses: [IpAddr; 2] = [four.into(), six.into()];
        Ok(DnsRoad {
            redirect: link.redirect(index, &config.settings.dns.trusted),
            identity: addresses.map(Identity::Address).to_vec(),
            index: Some(index),
            listeners: Vec::new(),
        })
    }

    /// Sends the answers for an endpoint to its interface, whose index changes when it is made anew.
    pub(super) fn answer_at(&self, index: u16, interface: &str) -> Result<(), KernelError> {
        let (four, six) = DnsLink::identity(index);
        let answers = AnswersTo { ifindex: interface_index(interface)?, receive: 0 };
        self.0.host.set_identity(four.into(), answers)?;
        self.0.host.set_identity(six.into(), answers)
    }

    /// The index an endpoint had, or one that no attached endpoint has.
    fn identity_index(&self, uid: &str, before: Option<&DnsRedirect>) -> Result<u16, EnforcerError> {
        if let Some(index) = before.and_then(index_of) {
            return Ok(index);
        }
        let ours = self.all();
        let mut taken: BTreeSet<u16> = ours.iter().filter_map(|guarded| guarded.index).collect();
        // Those that only an earlier process knew are asked themselves.
        let known: BTreeSet<&str> = ours.iter().map(|guarded| &*guarded.config.uid).collect();
        let strangers =
            self.attached()?.into_iter().filter(|other| other != uid && !known.contains(&**other));
        for other in &strangers.collect::<Vec<_>>() {
            let config = self.0.host.open_endpoint(other).and_then(|endpoint| endpoint.config());
            taken.extend(config.ok().as_ref().and_then(|config| index_of(&config.dns)));
        }
        (1..=IDENTITIES).find(|index| !taken.contains(index)).ok_or(EnforcerError::NoIdentity)
    }
}

/// What is alive before anything is attached.
fn live_before(config: &EndpointConfig) -> Vec<Connection> {
    match workload::live_connections(&config.attachment) {
        Ok(Some(live)) => live,
        Ok(None) => {
            tracing::debug!(endpoint = &*config.uid, "no network namespace is known behind it");
            Vec::new()
        }
        Err(error) => {
            tracing::warn!(endpoint = &*config.uid, %error, "live connections cannot be read: they end");
            Vec::new()
        }
    }
}

/// The index of an endpoint on an interface; cgroups have none.
fn index_of(redirect: &DnsRedirect) -> Option<u16> {
    let [.., high, low] = redirect.identity4;
    Some(u16::from_be_bytes([high, low]) & 0x7fff).filter(|index| *index != 0)
}
