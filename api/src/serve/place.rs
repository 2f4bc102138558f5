//! Where the API is served: a unix socket that only its owner and group may open, or a loopback address with a token.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    str::FromStr,
};

use socket2::{Domain, SockAddr, Socket, Type};

use super::{TlsListener, Token};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;
/// For the owner and the group of the process.
const MODE: u32 = 0o660;

/// Where to serve, as the command line has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiPlace {
    /// `unix:PATH`.
    Unix(PathBuf),
    /// `ADDR:PORT`, loopback only. Who has the token may read.
    Address(SocketAddr),
}

impl FromStr for ApiPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err("the path must begin with /".into()),
            None => {
                let address: SocketAddr = text.parse().map_err(|_| {
                    format!(
                        "write unix:{text} for a socket, or ADDR:PORT with a numeric address ([::1]:8080)"
                    )
                })?;
                if address.ip().is_loopback() {
                    return Ok(Self::Address(address));
                }
                Err("only a loopback address, since nothing would protect the token on a network: write 127.0.0.1:PORT \
                     or unix:PATH"
                    .into())
            }
        }
    }
}

impl std::fmt::Display for ApiPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// A place that is listened at.
#[derive(Debug)]
pub enum ApiListener {
    /// A unix socket.
    Unix(UnixListener),
    /// An address, and what its clients must show.
    Address(TcpListener, Token),
    /// An address of a network, over TLS.
    Tls(TlsListener),
}

impl ApiPlace {
    /// Opens the place. An address needs a file with a token.
    ///
    /// # Errors
    /// When it cannot be made, or is somebody else's; when an address has no token.
    pub fn listen(&self, token_file: Option<&Path>) -> io::Result<ApiListener> {
        match self {
            Self::Unix(path) => listen(path).map(ApiListener::Unix),
            Self::Address(address) => {
                let missing = || {
                    io::Error::other(
                        "an address needs --api-token-file FILE; the file is made where there is none",
                    )
                };
                let token = Token::read_or_make(token_file.ok_or_else(missing)?).map_err(io::Error::other)?;
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(ApiListener::Address(listener, token))
            }
        }
    }
}

/// Opens a unix socket. One that an earlier process left is replaced; nothing else at its path is.
///
/// # Errors
/// When the socket cannot be made, somebody serves there, or the path is of another kind of file.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    // The file gets the mode that the socket has before it is bound (unix(7)), less the umask: never more than this.
    fs::set_permissions(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket)), mode())?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, mode())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn mode() -> fs::Permissions {
    fs::Permissions::from_mode(MODE)
}

/// Removes a socket that nobody serves any more.
fn make_room(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.file_type(),
    };
    if !kind.is_socket() {
        let text = "there is a file of another kind at this path: remove it, or name another path";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        let text = "another process serves at this path: stop it, or name another path";
        return Err(io::Error::new(io::ErrorKind::AddrInUse, text));
    }
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("nwt{}-api-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    #[test]
    fn places_are_read() {
        assert_eq!("unix:/run/a.sock".parse(), Ok(ApiPlace::Unix("/run/a.sock".into())));
        assert_eq!("[::1]:80".parse(), Ok(ApiPlace::Address("[::1]:80".parse().unwrap())));
        assert!("192.0.2.1:80".parse::<ApiPlace>().unwrap_err().contains("loopback"));
        assert!("/run/a.sock".parse::<ApiPlace>().unwrap_err().contains("write unix:/run/a.sock"));
        assert!("unix:a.sock".parse::<ApiPlace>().unwrap_err().contains("begin with /"));
    }

    #[test]
    fn an_address_needs_a_token_that_others_cannot_read() {
        let folder = Folder::new("token");
        let place = ApiPlace::Address("127.0.0.1:0".parse().unwrap());
        assert!(place.listen(None).unwrap_err().to_string().contains("--api-token-file"));
        let file = folder.0.join("token");
        let ApiListener::Address(_, made) = place.listen(Some(&file)).unwrap() else { panic!("an address") };
        assert!(made.as_str().len() >= 43);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let ApiListener::Address(_, read) = place.listen(Some(&file)).unwrap() else { panic!("an address") };
        assert_eq!(read.as_str(), made.as_str());
        assert!(!format!("{made:?}").contains(made.as_str()));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(place.listen(Some(&file)).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for unfit in ["", "short", "two lines of text\nthat are long"] {
            fs::write(&file, unfit).unwrap();
            assert!(place.listen(Some(&file)).unwrap_err().to_string().contains("one line"), "{unfit}");
        }
    }

    #[test]
    fn only_a_socket_that_nobody_serves_is_replaced() {
        let folder = Folder::new("replace");
        let path = folder.0.join("api.sock");
        let first = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(listen(&path).unwrap());
        let precious = folder.0.join("precious");
        fs::write(&precious, "text").unwrap();
        let refused = listen(&precious).unwrap_err();
        assert!(refused.to_string().contains("another kind"), "{refused}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "text");
    }
}
