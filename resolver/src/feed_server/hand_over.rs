//! DNS sockets that arrived and wait for the stream that speaks of them.

use std::{
    collections::VecDeque,
    os::unix::net::UnixStream as StdUnixStream,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use nameward_feed::sockets::{DnsSocket, HandOverError, receive};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Notify,
};

use super::sockets::accept;

/// Hand-overs that wait at most; older ones are closed.
const MOST: usize = 16;
/// How long one may take, and how long a stream waits for its own.
const WITHIN: Duration = Duration::from_secs(1);

/// Sockets by the number of their hand-over.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    waiting: Mutex<VecDeque<(u64, Vec<DnsSocket>)>>,
    arrived: Notify,
}

impl HandOvers {
    /// Receives hand-overs at the listener. Never ends.
    pub(super) async fn receive_all(self: Arc<Self>, listener: UnixListener) {
        let mut streams = Box::pin(accept(listener));
        while let Some(stream) = streams.next().await {
            let (Ok(stream), own) = (stream, Arc::clone(&self)) else { continue };
            tokio::task::spawn_blocking(move || match receive_one(stream) {
                Ok((number, sockets)) => own.put(number, sockets),
                // Another resolver that looks whether we are alive says nothing and goes.
                Err(HandOverError::Closed) => {}
                Err(error) => tracing::warn!(%error, "no hand-over of DNS sockets"),
            });
        }
    }

    /// The sockets with this number, as soon as they are there.
    pub(super) async fn take(&self, number: u64) -> Option<Vec<DnsSocket>> {
        let take = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(sockets) = self.find(number) {
                    return sockets;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(WITHIN, take).await.ok()
    }

    fn find(&self, number: u64) -> Option<Vec<DnsSocket>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let index = waiting.iter().position(|(known, _)| *known == number)?;
        waiting.remove(index).map(|(_, sockets)| sockets)
    }

    fn put(&self, number: u64, sockets: Vec<DnsSocket>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == MOST {
            waiting.pop_front();
        }
        waiting.push_back((number, sockets));
        self.arrived.notify_waiters();
    }
}

fn receive_one(stream: UnixStream) -> Result<(u64, Vec<DnsSocket>), HandOverError> {
    let blocking = || -> std::io::Result<StdUnixStream> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(WITHIN))?;
        Ok(stream)
    };
    receive(&blocking().map_err(|_| HandOverError::Malformed("the connection cannot be read"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_waits_for_its_own_sockets() {
        let hand_overs = Arc::new(HandOvers::default());
        let waiting = tokio::spawn({
            let hand_overs = Arc::clone(&hand_overs);
            async move { hand_overs.take(7).await }
        });
        hand_overs.put(8, Vec::new());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        hand_overs.put(7, Vec::new());
        assert!(waiting.await.unwrap().is_some());
        assert!(hand_overs.find(8).is_some());
    }

    #[tokio::test]
    async fn sockets_that_never_come_are_not_waited_for() {
        assert!(HandOvers::default().take(7).await.is_none());
    }

    #[test]
    fn only_so_many_wait() {
        let hand_overs = HandOvers::default();
        (0..MOST as u64 + 3).for_each(|number| hand_overs.put(number, Vec::new()));
        assert!(hand_overs.find(2).is_none());
        assert!(hand_overs.find(3).is_some());
    }
}
