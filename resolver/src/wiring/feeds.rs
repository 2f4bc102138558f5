//! Where enforcers connect: opened before root's rights are given up, served after.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::{Context, Result};
use nameward_daemon::Tasks;
use nameward_feed::tls::{self, Credentials, TlsFiles};

use crate::{
    feed_server::{FeedServer, FeedSockets},
    options::{FeedPlace, OptionsError},
};

/// All places, listened at.
pub(super) struct Feeds {
    near: Vec<FeedSockets>,
    far: Vec<(TcpListener, Arc<Credentials>)>,
}

impl Feeds {
    pub(super) fn open(places: &[FeedPlace], files: Option<TlsFiles>) -> Result<Self> {
        let credentials = files.map(tls::credentials).transpose()?;
        let mut feeds = Self { near: Vec::new(), far: Vec::new() };
        for place in places {
            match place {
                FeedPlace::Folder(folder) => feeds.near.push(FeedSockets::open(folder)?),
                FeedPlace::Far(address) => {
                    let credentials = credentials.clone().ok_or(OptionsError::NoCertificates(*address))?;
                    feeds.far.push((listen(*address)?, credentials));
                }
            }
        }
        Ok(feeds)
    }

    pub(super) fn serve(self, server: &FeedServer, tasks: &mut Tasks) {
        for sockets in self.near {
            tracing::info!(socket = %sockets.path().display(), "enforcers may connect");
            let serving = server.clone().serve(sockets);
            tasks.spawn("feed", async { Ok(serving.await?) });
        }
        for (listener, credentials) in self.far {
            if let Ok(address) = listener.local_addr() {
                tracing::info!(feed = %address, "enforcers with a certificate may connect");
            }
            let serving = server.clone().serve_far(listener, credentials);
            tasks.spawn("feed over TLS", async { Ok(serving.await?) });
        }
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("cannot listen at --feed tls://{address}; choose an address and a port that are free")
    })
}
