//! What an enforcer does by itself: it reads events, beats, and looks after its endpoints.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt};
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use nameward_abi::Event;
use nameward_feed::proto::RefusedNames;
use nameward_policy::{BootTime, Destination};
use rtnetlink::{
    MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use tokio::{sync::watch, task::JoinSet};

use super::{Enforcer, EnforcerError, Guarded, now};
use crate::{
    decisions::{Asker, Context, Refusal, ip},
    endpoints::{EndpointError, Look},
    gateway,
    heartbeat::{self, AnswerPath},
    kernel::{Attachment, BootNanos, EventReader, KernelError, KernelStore, Order, interface_index},
    own_addresses,
};

/// How often endpoints are asked whether something is about to lapse.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Something that lapses within this time is looked after now.
const AHEAD: Duration = Duration::from_secs(2);
/// Every endpoint is looked after this often: idle flows.
const UPKEEP_EVERY: Duration = Duration::from_secs(30);
/// How often what the kernel holds is compared with what it should.
const DRIFT_EVERY: Duration = Duration::from_secs(5);
/// Between two pieces of an endpoint that is compared piece by piece.
const LET_OTHERS: Duration = Duration::from_micros(200);
/// How often cgroups are looked for: nobody tells when one of the same name is made.
const PLACES_EVERY: Duration = Duration::from_millis(100);
/// Messages about interfaces or routes that are looked at together.
const LINK_MESSAGES: usize = 1_024;
/// How long an endpoint of a pod may outlive its interface before that is told as a fault.
const END_OF_POD: Duration = Duration::from_secs(60);

/// The answer path of an enforcer: itself, and whether somebody says that a resolver is there.
struct Path<F> {
    enforcer: Enforcer,
    resolver_is_alive: F,
}

impl Enforcer {
    /// Starts reading events, beating and upkeep. `resolver_is_alive` is asked ten times a second; while it says no,
    /// expiry is frozen. None of the tasks ends by itself: the end of one is a fault.
    ///
    /// # Errors
    /// [`EnforcerError::Kernel`] when the ring of events cannot be read.
    pub fn start(
        &self,
        resolver_is_alive: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<JoinSet<&'static str>, EnforcerError> {
        let mut tasks = JoinSet::new();
        let events = self.0.host.events()?;
        let reader = self.clone();
        tasks.spawn(async move {
            reader.read(events).await;
            "events"
        });
        let path = Arc::new(Path { enforcer: self.clone(), resolver_is_alive });
        let host = Arc::clone(&self.0.host);
        tasks.spawn(async move {
            heartbeat::run(host, path).await;
            "heartbeat"
        });
        let keeper = self.clone();
        tasks.spawn(async move {
            keeper.keep().await;
            "upkeep"
        });
        let finder = self.clone();
        tasks.spawn(async move {
            finder.watch_cgroups().await;
            "cgroups"
        });
        let watcher = self.clone();
        tasks.spawn(async move {
            if let Err(error) = watcher.watch_links().await {
                tracing::error!(%error, "interfaces cannot be watched any more");
            }
            "interfaces"
        });
        Ok(tasks)
    }

    /// Changes with every interface that comes, goes or changes, while [`start`](Self::start)'s tasks run.
    pub fn links(&self) -> watch::Receiver<()> {
        self.0.links.subscribe()
    }

    /// The addresses of this host, which no name opens (A3). They change while [`start`](Self::start)'s tasks run.
    pub fn own_addresses(&self) -> watch::Receiver<Vec<IpNet>> {
        self.0.own_addresses.subscribe()
    }

    /// An interface that is made anew is guarded again at once, not at the next upkeep.
    async fn watch_links(&self) -> io::Result<()> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, _handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        // Of their own: routers have many, and what overflows this socket loses no change of an interface.
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (route_connection, _handle, routes) = rtnetlink::new_multicast_connection(&groups)?;
        // One task for all: at the end of the process none of them sees the other gone, which would be told as a fault.
        tokio::select! {
            () = connection => {}
            () = route_connection => {}
            followed = self.follow_links(messages) => followed?,
            followed = self.follow_routes(routes) => followed?,
        }
        Err(io::Error::other("the kernel's socket was closed"))
    }

    async fn follow_links<A>(
        &self,
        messages: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, A)> + Unpin,
    ) -> io::Result<()> {
        // A pod that comes is a dozen messages: a look at every endpoint for each of them would take longer than the burst.
        let mut messages = messages.ready_chunks(LINK_MESSAGES);
        // What has changed since this process read them nobody tells.
        self.note_own_addresses()?;
        while let Some(chunk) = messages.next().await {
            if chunk.iter().any(|(message, _)| is_of_address(message)) {
                self.note_own_addresses()?;
            }
            if chunk.iter().all(|(message, _)| is_of_address(message)) {
                continue;
            }
            self.0.links.send_replace(());
            if chunk.iter().any(|(message, _)| gateway::is_of_bridge(message)) {
                self.follow_gateways();
            }
            for guarded in self.all().iter().filter(|one| !is_cgroup(one)) {
                self.keep_place(guarded);
            }
        }
        Ok(())
    }

    async fn follow_routes<A>(
        &self,
        messages: impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, A)> + Unpin,
    ) -> io::Result<()> {
        let mut messages = messages.ready_chunks(LINK_MESSAGES);
        while let Some(chunk) = messages.next().await {
            if chunk.iter().any(|(message, _)| own_addresses::is_of_own_route(message)) {
                self.note_own_addresses()?;
            }
        }
        Ok(())
    }

    fn note_own_addresses(&self) -> io::Result<()> {
        let found = own_addresses::own_addresses()?;
        self.0.own_addresses.send_if_modified(|known| {
            let is_new = *known != found;
            *known = found;
            is_new
        });
        Ok(())
    }

    /// The same for cgroups.
    async fn watch_cgroups(&self) {
        let mut tick = tokio::time::interval(PLACES_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            for guarded in self.all().iter().filter(|one| is_cgroup(one)) {
                self.keep_place(guarded);
            }
        }
    }

    /// Attaches anew where the place was made anew; tells where it is gone.
    fn keep_place(&self, guarded: &Guarded) {
        match guarded.is_elsewhere() {
            Ok(false) => self.note_place(guarded, None),
            Ok(true) => self.keep_first(guarded),
            Err(error) => self.note_place(guarded, Some(&error)),
        }
    }

    /// Tells what is wrong with an endpoint's place. On a node of a cluster an interface goes with its pod, and the endpoint a
    /// moment later: that is no fault, unless it stays so.
    fn note_place(&self, guarded: &Guarded, error: Option<&KernelError>) {
        // Asked for again: it may go while something else is asked of it, which fails in a way of its own.
        let is_gone = error.is_some()
            && matches!(&guarded.config.attachment, Attachment::Interface { name } if interface_index(name).is_err());
        let gone_for = guarded.note_absence(is_gone);
        if self.cluster().is_none() || !is_gone || gone_for >= END_OF_POD {
            guarded.note_trouble(error, &self.0.failures);
        }
    }

    async fn read(&self, mut reader: EventReader) {
        loop {
            match reader.next().await {
                Ok(events) => events.iter().for_each(|event| self.tell(event)),
                Err(error) => {
                    tracing::error!(%error, "events cannot be read any more");
                    return;
                }
            }
        }
    }

    fn tell(&self, event: &Event) {
        let Some(guarded) = self.by_number(event.endpoint_id) else {
            self.0.decisions.orphan();
            return;
        };
        self.0.tails.remember(event);
        self.tell_of(&guarded, event, wall_clock(event.at));
    }

    /// Tells of packets of an endpoint, with the names behind them.
    pub(super) fn tell_of(&self, guarded: &Guarded, event: &Event, at: Timestamp) {
        let context = context(guarded, event);
        self.0.decisions.tell(event, at, context);
    }

    /// Tells of names that a resolver did not answer. What is not understood is told as a loss, never left out.
    pub fn tell_refused(&self, names: &RefusedNames) {
        let decisions = &self.0.decisions;
        decisions.untold(None, names.unread);
        let mut losses: BTreeMap<&str, u64> = BTreeMap::new();
        for one in &names.untold {
            *losses.entry(&one.endpoint).or_default() += one.count;
        }
        for one in &names.names {
            match (self.guarded(&one.endpoint), Refusal::read(one)) {
                (Ok(guarded), Some(refusal)) => {
                    let asker = asker(&guarded, &refusal);
                    decisions.tell_refused(refusal, asker);
                }
                (Ok(_), None) => *losses.entry(&one.endpoint).or_default() += one.count,
                (Err(_), _) => decisions.orphan(),
            }
        }
        for (uid, count) in losses {
            let guarded = self.guarded(uid).ok();
            if let Some(guarded) = &guarded {
                guarded.untold.fetch_add(count, Ordering::Relaxed);
            }
            decisions.untold(guarded.as_ref().map(|guarded| &guarded.config.uid), count);
        }
    }

    async fn keep(&self) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut all_done, mut compared) = (Instant::now(), Instant::now());
        loop {
            tick.tick().await;
            self.tell_tails();
            let work: fn(&Self) = if all_done.elapsed() >= UPKEEP_EVERY {
                (all_done, compared) = (Instant::now(), Instant::now());
                Self::upkeep
            } else if compared.elapsed() >= DRIFT_EVERY {
                compared = Instant::now();
                Self::compare
            } else {
                |keeper| keeper.all().iter().for_each(|guarded| look_after(guarded, false))
            };
            // It reads maps for tens of milliseconds: grants and feeds do not wait for that on a thread of the runtime.
            let keeper = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || work(&keeper)).await {
                tracing::error!(%error, "upkeep broke off");
                return;
            }
        }
    }
}

impl Enforcer {
    /// Puts our programs where they belong: in front again where others came before them or took them away, at a
    /// place that was made anew.
    fn keep_first(&self, guarded: &Guarded) {
        let is_right = match &guarded.config.attachment {
            Attachment::Interface { name } => {
                self.0.host.order(&guarded.config.uid, name).map(|order| order == Order::First)
            }
            Attachment::Cgroup { .. } => guarded.is_elsewhere().map(|elsewhere| !elsewhere),
        };
        let kept = is_right.and_then(|is_right| if is_right { Ok(()) } else { self.attach_again(guarded) });
        self.note_place(guarded, kept.err().as_ref());
    }

    fn attach_again(&self, guarded: &Guarded) -> Result<(), KernelError> {
        let Some(mut endpoint) = guarded.current() else { return Ok(()) };
        tracing::error!(endpoint = &*guarded.config.uid, "our programs were not in their place: put back");
        if let (Some(index), Attachment::Interface { name }) = (guarded.index, &guarded.config.attachment) {
            self.answer_at(index, name)?;
        }
        self.0.host.attach_first(&guarded.spec)?;
        endpoint.count_repair();
        Ok(())
    }

    /// Compares what the kernel holds with what it should, and puts right what somebody else changed.
    fn compare(&self) {
        for guarded in self.all() {
            self.keep_first(&guarded);
            self.keep_config(&guarded);
            guarded.follow_gateway();
            guarded.look_for_new_gaps();
            let has_drifted = self.has_drifted(&guarded).unwrap_or_else(|error| {
                tracing::warn!(endpoint = &*guarded.config.uid, %error, "the kernel's tables cannot be compared");
                false
            });
            look_after(&guarded, has_drifted);
        }
    }

    /// Whether the kernel holds something that this process did not write. Of an endpoint with many names this is found
    /// out piece by piece, because no grant is made while it is locked.
    fn has_drifted(&self, guarded: &Guarded) -> Result<bool, EndpointError> {
        let Some(mut endpoint) = guarded.current() else { return Ok(false) };
        if !endpoint.has_many() || endpoint.rules().is_none() {
            return endpoint.has_drifted(now());
        }
        let (recorded, generation) = (endpoint.recorded(), endpoint.generation());
        drop(endpoint);
        let observed = self.0.host.open_endpoint(&guarded.config.uid)?.observe()?;
        let Some(endpoint) = guarded.current() else { return Ok(false) };
        if endpoint.generation() != generation {
            // What was read is of two sets of rules. The next look will tell.
            return Ok(false);
        }
        if endpoint.has_other_rules(&observed) {
            return Ok(true);
        }
        drop(endpoint);
        for piece in Look::new(recorded, observed).pieces() {
            let Some(endpoint) = guarded.current() else { return Ok(false) };
            if endpoint.has_drifted_in(&piece, now())? {
                return Ok(true);
            }
            drop(endpoint);
            // Who waits for the lock is woken by its release, which takes longer than to take it again.
            std::thread::sleep(LET_OTHERS);
        }
        Ok(false)
    }

    fn keep_config(&self, guarded: &Guarded) {
        let Some(mut endpoint) = guarded.current() else { return };
        match endpoint.restore_config(&guarded.spec) {
            Ok(false) => {}
            Ok(true) => tracing::error!(
                endpoint = &*guarded.config.uid,
                "somebody else changed the endpoint's configuration in the kernel: repaired"
            ),
            Err(error) => {
                tracing::debug!(endpoint = &*guarded.config.uid, %error, "configuration not compared");
            }
        }
    }

    /// Looks after every endpoint now, as is done from time to time anyway.
    pub fn upkeep(&self) {
        if let Err(error) = self.note_own_addresses() {
            tracing::warn!(%error, "the addresses of this host are not read again");
        }
        for guarded in self.all() {
            self.keep_first(&guarded);
            self.keep_config(&guarded);
            guarded.keep_gateway();
            guarded.look_for_gaps();
            look_after(&guarded, true);
        }
    }
}

impl<F: Fn() -> bool + Send + Sync> AnswerPath for Path<F> {
    fn is_whole(&self) -> bool {
        let whole = (self.resolver_is_alive)();
        self.enforcer.0.path_is_whole.store(whole, Ordering::Relaxed);
        whole
    }

    fn resume(&self, last_beat: BootNanos, now: BootNanos) {
        for guarded in self.enforcer.all() {
            let Some(mut endpoint) = guarded.current() else { continue };
            if let Err(error) = endpoint.resume(BootTime(last_beat.0), BootTime(now.0)) {
                tracing::warn!(endpoint = &*guarded.config.uid, %error, "what lapsed meanwhile was not extended");
            }
        }
    }
}

const fn is_of_address(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    use RouteNetlinkMessage::{DelAddress, NewAddress};
    matches!(&message.payload, NetlinkPayload::InnerMessage(NewAddress(_) | DelAddress(_)))
}

fn is_cgroup(guarded: &Guarded) -> bool {
    matches!(guarded.config.attachment, Attachment::Cgroup { .. })
}

fn look_after(guarded: &Guarded, anyway: bool) {
    let now = now();
    let Some(mut endpoint) = guarded.current() else { return };
    if !anyway && !endpoint.lapses_before(now, now.saturating_add(AHEAD)) {
        return;
    }
    let repairs = endpoint.drift_repairs();
    if let Err(error) = endpoint.upkeep(now) {
        tracing::warn!(endpoint = &*guarded.config.uid, %error, "upkeep failed, it is tried again");
    }
    if endpoint.drift_repairs() != repairs {
        let found = endpoint.drift_repairs() - repairs;
        tracing::warn!(
            endpoint = &*guarded.config.uid,
            found,
            "somebody else changed the kernel's tables: repaired"
        );
    }
}

fn asker(guarded: &Guarded, refusal: &Refusal) -> Asker {
    let endpoint = guarded.lock();
    let (name, reason) = refusal.question();
    Asker {
        endpoint: guarded.config.uid.clone(),
        workload: guarded.workload(),
        address: guarded.config.addresses.first().copied(),
        generation: endpoint.generation(),
        staged: endpoint.staged_question(name, reason),
    }
}

fn context(guarded: &Guarded, event: &Event) -> Context {
    let endpoint = guarded.lock();
    let remote: IpAddr = ip(event.remote);
    let port = u16::from_be_bytes(event.remote_port);
    let explained = endpoint.explain(&Destination::Address(remote), event.protocol, port, now());
    let policy = explained
        .and_then(|explained| explained.rules.into_iter().next())
        .map(|rule| format!("{} rule {}", rule.policy, rule.rule));
    Context {
        endpoint: guarded.config.uid.clone(),
        workload: guarded.workload(),
        name: endpoint.last_name(remote).map(|name| name.as_str().to_owned()),
        policy,
        staged: endpoint.staged_packet(event, now()),
    }
}

/// The wall clock's time of a moment of the kernel's clock.
pub(super) fn wall_clock(at: u64) -> Timestamp {
    let ago = BootNanos::now().since(BootNanos(at));
    let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::ZERO);
    let now = Timestamp::now();
    now.checked_sub(ago).unwrap_or(now)
}
