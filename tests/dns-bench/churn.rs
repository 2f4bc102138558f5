//! Names with eight random addresses of a thousand and a TTL of five seconds, looked up all the time: each answer's
//! addresses are used until its TTL ends, and nothing of that may be denied.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{Extent, cpu::Group, figures::Figures, questions::Shuffle, world::World};

const NAMES: u32 = 50;
const ADDRESSES: u32 = 1_000;
const EACH: u32 = 8;
const TTL: u32 = 5;
const LOOKUPS_A_SECOND: u32 = 1_000;
const UPSTREAM: &str = "127.0.0.1:5300";
const MEANT: &str = "198.51.100.53:53";
/// Type AAAA, class IN.
const QUESTION_END: [u8; 5] = [0, 0, 28, 0, 1];
const HEADER: usize = 12;
/// A resolver that is up to date answers in far less; what is lost is asked for again by the next lookup.
const PATIENCE: Duration = Duration::from_millis(1);
/// Of all lookups: datagrams may be lost, and the last ones are not waited for.
const LOST_BAR: f64 = 1.0;
/// Of the memory in the middle.
const FLAT: f64 = 1.05;

/// What came of it.
#[derive(Debug, Default)]
struct Done {
    lookups: u64,
    /// Answers that are no eight addresses.
    wrong: u64,
    used: u64,
    /// Memory of each process in the middle, in octets.
    middle: Vec<u64>,
}

pub(crate) fn measure(extent: Extent, figures: &mut Figures) -> Result<()> {
    let mut world = World::new(1)?;
    let server = world.internet.host().run(|| UdpSocket::bind(UPSTREAM))??;
    server.set_read_timeout(Some(Duration::from_millis(100)))?;
    let stop = Arc::new(AtomicBool::new(false));
    let upstream = thread::spawn({
        let stop = Arc::clone(&stop);
        move || serve(&server, &stop)
    });
    world.start_resolver(UPSTREAM.parse()?)?;
    world.start_enforcer()?;
    let namespace = world.workloads[0].namespace();
    let done = namespace.run(|| look_up(&world, extent.churn()))?;
    stop.store(true, Ordering::Relaxed);
    upstream.join().ok().context("the name server ended")??;
    let done = done?;
    let seconds = extent.churn().as_secs();
    println!("churn: {} lookups, {} addresses used, {seconds} s", done.lookups, done.used);
    let asked = f64::from(LOOKUPS_A_SECOND) * seconds as f64;
    let lost = 100.0 * (1.0 - (done.lookups + done.wrong) as f64 / asked);
    figures.bounded("churn: lookups without any answer", "%", lost, LOST_BAR);
    let denied = world.denied()?;
    let sum: u64 = denied.iter().map(|(_, packets)| packets).sum();
    if sum > 0 {
        println!("churn: denied: {denied:?}");
    }
    figures.bounded("churn: uses of an answer's addresses that were denied", "packets", sum as f64, 0.0);
    figures.bounded("churn: lookups without eight addresses", "answers", done.wrong as f64, 0.0);
    for ((name, leader), middle) in world.processes().zip(&done.middle) {
        let grown = Group::of(leader).resident() as f64 / *middle as f64;
        figures.bounded(&format!("churn: memory of {name} after half of it"), "times", grown, FLAT);
    }
    // The counter counts: an address that nobody granted.
    namespace.run(|| use_address(Ipv6Addr::new(0x2001, 0xdb8, 0xdead, 0, 0, 0, 0, 1)))??;
    let after: u64 = world.denied()?.iter().map(|(_, packets)| packets).sum();
    ensure!(after > sum, "a packet to an address that was not granted is not counted as denied");
    Ok(())
}

/// Runs in the workload's namespace.
fn look_up(world: &World, time: Duration) -> Result<Done> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(MEANT)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut done, mut shuffle, begun) = (Done::default(), Shuffle::new(), Instant::now());
    let mut due: BinaryHeap<Reverse<(Instant, Ipv6Addr)>> = BinaryHeap::new();
    let mut asked = 0_u32;
    let mut buffer = [0; 1_500];
    while begun.elapsed() < time || !due.is_empty() {
        let now = Instant::now();
        let wanted = ((now - begun).min(time).as_secs_f64() * f64::from(LOOKUPS_A_SECOND)) as u32;
        while asked < wanted {
            asked += 1;
            socket.send(&question(asked, shuffle.below(NAMES)))?;
        }
        // Nothing there within the patience: what is due is done.
        if let Ok(length) = socket.recv(&mut buffer) {
            match read(&buffer[..length]) {
                Some((addresses, ttl)) => {
                    done.lookups += 1;
                    let address = addresses[shuffle.below(EACH) as usize];
                    let use_at = Duration::from_millis(u64::from(shuffle.below(ttl * 1_000 - 50)));
                    due.push(Reverse((Instant::now() + use_at, address)));
                }
                None => done.wrong += 1,
            }
        }
        while let Some(Reverse((at, address))) = due.peek().copied().filter(|Reverse((at, _))| *at <= now) {
            due.pop();
            // One that is used too late, because this process had to wait, says nothing.
            if at + Duration::from_millis(40) > Instant::now() {
                use_address(address)?;
                done.used += 1;
            }
        }
        if done.middle.is_empty() && begun.elapsed() > time / 2 {
            done.middle = world.processes().map(|(_, leader)| Group::of(leader).resident()).collect();
        }
    }
    Ok(done)
}

/// From a port of its own: a flow that is known would pass whatever the grant says.
fn use_address(address: Ipv6Addr) -> Result<()> {
    let socket = UdpSocket::bind("[::]:0")?;
    socket.send_to(b"churn", SocketAddr::from((address, 443)))?;
    Ok(())
}

fn question(number: u32, name: u32) -> Vec<u8> {
    let [_, _, high, low] = number.to_be_bytes();
    let mut message = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    let first = format!("n{name:04}");
    // Half of the names have no grace.
    for label in [first.as_str(), if name.is_multiple_of(2) { "strict" } else { "many" }, "example"] {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend(QUESTION_END);
    message
}

/// The addresses of an answer and the TTL of the first, in seconds.
fn read(answer: &[u8]) -> Option<(Vec<Ipv6Addr>, u32)> {
    let end = HEADER + answer.get(HEADER..)?.windows(5).position(|five| five == QUESTION_END)? + 5;
    // Each record: a pointer, type, class, TTL, length, address.
    let records: Vec<&[u8]> = answer.get(end..)?.chunks_exact(28).take(EACH as usize).collect();
    let ttl = records.first()?.get(6..10)?.try_into().map(u32::from_be_bytes).ok()?;
    let address = |record: &&[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(record.get(12..28)?).ok()?));
    let addresses: Vec<_> = records.iter().filter_map(address).collect();
    let good = answer[3] & 0xf == 0 && answer[7] == EACH as u8 && addresses.len() == EACH as usize && ttl > 0;
    good.then_some((addresses, ttl))
}

/// The upstream.
fn serve(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    let (mut buffer, mut shuffle) = ([0; 1_500], Shuffle::new());
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let Some(at) = buffer[HEADER..length].windows(5).position(|five| five == QUESTION_END) else {
            continue;
        };
        let mut answer = buffer[..HEADER + at + 5].to_vec();
        answer[2..HEADER].copy_from_slice(&[0x81, 0x80, 0, 1, 0, EACH as u8, 0, 0, 0, 0]);
        for address in eight(&mut shuffle) {
            answer.extend([0xc0, HEADER as u8, 0, 28, 0, 1]);
            answer.extend(TTL.to_be_bytes());
            answer.extend([0, 16]);
            answer.extend(address.octets());
        }
        socket.send_to(&answer, from)?;
    }
    Ok(())
}

/// Eight different ones.
fn eight(shuffle: &mut Shuffle) -> Vec<Ipv6Addr> {
    let mut numbers = Vec::new();
    while numbers.len() < EACH as usize {
        let number = shuffle.below(ADDRESSES);
        if !numbers.contains(&number) {
            numbers.push(number);
        }
    }
    numbers.into_iter().map(|number| Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, number as u16)).collect()
}
