//! The two sockets of this resolver in the feed's folder: made, guarded, removed.
//!
//! Only root and the resolver's own user may connect; who else tries is turned away by the kernel's word on the
//! peer, whatever the modes of files are.

use std::{
    io,
    os::unix::net::UnixListener as StdUnixListener,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::{Stream, stream};
use nameward_feed::folder::{self, ResolverSockets};
use nix::unistd::Uid;
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};

/// After an error of `accept`, such as no descriptors left.
const BREATH: Duration = Duration::from_millis(100);

/// What can go wrong with the feed's sockets.
#[derive(Debug, Error)]
pub enum FeedSocketsError {
    /// The folder or a socket in it.
    #[error("cannot {operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The folder is not safe.
    #[error("{path} is no safe place for the feed: {source}")]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// Why, and what to do.
        source: io::Error,
    },
    /// The sockets cannot be served.
    #[error("cannot serve the feed: {0}")]
    Runtime(#[from] io::Error),
    /// gRPC.
    #[error("the feed ended: {0}")]
    Serve(tonic::transport::Error),
}

/// The sockets, listened at, not served yet. Their files go when they are dropped.
#[derive(Debug)]
pub struct FeedSockets {
    feed: StdUnixListener,
    hand_over: StdUnixListener,
    files: Files,
}

/// Files that are removed on drop.
#[derive(Debug)]
pub(super) struct Files(ResolverSockets);

impl Drop for Files {
    fn drop(&mut self) {
        for path in [&self.0.feed, &self.0.sockets] {
            if let Err(error) = std::fs::remove_file(path) {
                // The next resolver removes it: nobody listens there any more.
                tracing::debug!(path = %path.display(), %error, "a socket of the feed stays");
            }
        }
    }
}

impl FeedSockets {
    /// Makes the folder if need be, removes what dead resolvers left in it, and listens under a name of its own.
    ///
    /// # Errors
    /// [`FeedSocketsError::Io`], [`FeedSocketsError::Unsafe`].
    pub fn open(folder: &Path) -> Result<Self, FeedSocketsError> {
        let failed = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| FeedSocketsError::Io { operation, path, source }
        };
        folder::create(folder).map_err(failed("make the folder", folder))?;
        folder::check(folder, Uid::effective().as_raw())
            .map_err(|source| FeedSocketsError::Unsafe { path: folder.to_owned(), source })?;
        let removed = folder::clean(folder).map_err(failed("clean", folder))?;
        if removed != 0 {
            tracing::info!(removed, folder = %folder.display(), "removed sockets of resolvers that are gone");
        }
        let name = format!("resolver-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let paths = ResolverSockets::of(folder, &name);
        let hand_over = folder::listen(&paths.sockets).map_err(failed("listen at", &paths.sockets))?;
        // Enforcers look for this one: it comes last.
        let feed = folder::listen(&paths.feed).map_err(failed("listen at", &paths.feed))?;
        Ok(Self { feed, hand_over, files: Files(paths) })
    }

    /// Where enforcers connect.
    pub fn path(&self) -> &Path {
        &self.files.0.feed
    }

    pub(super) fn into_parts(self) -> io::Result<(UnixListener, UnixListener, Files)> {
        let convert = |listener: StdUnixListener| {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        Ok((convert(self.feed)?, convert(self.hand_over)?, self.files))
    }
}

/// Connections of peers that may connect. Never ends.
pub(super) fn accept(listener: UnixListener) -> impl Stream<Item = io::Result<UnixStream>> {
    stream::unfold(listener, async |listener| {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if is_trusted(&stream) => return Some((Ok(stream), listener)),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the feed cannot take a connection");
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
    })
}

fn is_trusted(stream: &UnixStream) -> bool {
    let uid = stream.peer_cred().map(|peer| peer.uid());
    let trusted = uid.as_ref().is_ok_and(|uid| may_connect(*uid, Uid::effective().as_raw()));
    if !trusted {
        tracing::warn!(?uid, "turned away: only root and the resolver's own user may use the feed");
    }
    trusted
}

fn may_connect(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_own_user_may_connect() {
        assert!(may_connect(0, 990) && may_connect(990, 990) && may_connect(0, 0));
        assert!(!may_connect(1000, 990) && !may_connect(65_534, 0));
    }
}
