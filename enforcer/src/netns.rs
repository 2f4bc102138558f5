//! Network namespaces: making one that has a name, and doing something inside one.
//!
//! A thread belongs to one namespace, so what is done inside is done on a thread of its own.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    thread,
};

use futures::TryStreamExt;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkLayerType, LinkMessage};

/// An interface.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Its name.
    pub(crate) name: String,
    /// It is a device, or its other end or lower device is in another namespace.
    pub(crate) leads_out: bool,
}

/// The interfaces of the calling thread's namespace, without loopback.
pub(crate) fn links() -> io::Result<Vec<Link>> {
    netlink(async |handle| {
        let found: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
        Ok(found
            .iter()
            .filter(|link| link.header.link_layer_type != LinkLayerType::Loopback)
            .map(describe)
            .collect())
    })
}

/// An interface of the calling thread's namespace, by its name. This one alone is asked for: a list of all would cost the
/// square of their number where each is looked for.
pub(crate) async fn link_named(
    handle: &rtnetlink::Handle,
    name: &str,
) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    handle.link().get().match_name(name.to_owned()).execute().try_next().await
}

fn describe(link: &LinkMessage) -> Link {
    let (mut name, mut is_made, mut elsewhere) = (String::new(), false, false);
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name.clone_from(text),
            LinkAttribute::LinkInfo(_) => is_made = true,
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    Link { name, leads_out: elsewhere || !is_made }
}

/// A namespace that a file keeps alive.
#[derive(Debug)]
pub(crate) struct NamedNamespace {
    path: PathBuf,
    file: File,
}

impl NamedNamespace {
    /// Opens the namespace at `path`, or makes a new one there.
    pub(crate) fn open_or_create(path: &Path) -> io::Result<Self> {
        if is_namespace(path) {
            return Ok(Self { path: path.into(), file: File::open(path)? });
        }
        Self::create(path)
    }

    fn create(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create(path)?;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let own = Path::new("/proc/thread-self/ns/net");
            mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        })?;
        Ok(Self { path: path.into(), file: File::open(path)? })
    }

    /// A descriptor of the namespace.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Does `work` inside, on a thread of its own.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            work()
        })
    }

    /// Takes the name away; the namespace goes when no socket and no process is in it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.path)
    }
}

/// Takes the name of a namespace away; it may be absent.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Does `work` on a thread of its own, which starts in the caller's namespace.
pub(crate) fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        scope
            .spawn(work)
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread inside a namespace panicked")))
    })
}

/// Does netlink requests in the namespace of the calling thread, which must have no runtime.
pub(crate) fn netlink<T>(
    work: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T, rtnetlink::Error>,
) -> io::Result<T> {
    converse(rtnetlink::new_connection, work)
}

/// The same where what a request says is a filter, which the kernel passes over otherwise (`NETLINK_GET_STRICT_CHK`).
pub(crate) fn strict_netlink<T>(
    work: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T, rtnetlink::Error>,
) -> io::Result<T> {
    converse(rtnetlink::new_connection_with_strict_check, work)
}

fn converse<T, M, C: Future<Output = ()> + Send + 'static>(
    open: impl FnOnce() -> io::Result<(C, rtnetlink::Handle, M)>,
    work: impl AsyncFnOnce(rtnetlink::Handle) -> Result<T, rtnetlink::Error>,
) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = open()?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await.map_err(io::Error::other);
        connection.abort();
        result
    })
}

fn is_namespace(path: &Path) -> bool {
    nix::sys::statfs::statfs(path)
        .is_ok_and(|status| status.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}
