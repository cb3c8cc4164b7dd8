//! The UNIX socket by which `wg` and other clients drive the device (<https://www.wireguard.com/xplatform/>).
//!
//! One thread accepts, and each connection has a thread of its own while it lasts. A connection may make several
//! requests, one after the other; each ends with an empty line.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fd::AsFd;
use rustix::net::netdevice::name_to_index;
use wireloom_io::{Signal, Wake};
use wireloom_tunnel::uapi::{self, Request, errno_text};
use zeroize::Zeroizing;

use crate::dataplane::Dataplane;

/// Where `wg` looks for the sockets of userspace devices (`wireguard-tools`, `src/ipc-uapi-unix.h`).
pub const DIRECTORY: &str = "/var/run/wireguard";

/// The connections that are served at once; more wait until one ends.
const CONNECTIONS: usize = 16;
/// How long a connection may be silent, and an answer may wait to be read.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest request, in bytes: a hundred thousand peers, and then some.
const REQUEST_BYTES: usize = 64 * 1024 * 1024;

/// A socket that answers for a device. Dropped, it is closed and removed.
#[derive(Debug)]
pub struct UapiSocket {
    place: Option<Place>,
    stop: Arc<Signal>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UapiSocketError {
    /// Another device answers there.
    #[error("{}: another process answers for this interface: stop it, or choose another name", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something else stands there.
    #[error("{}: is no socket: move it away", path.display())]
    NoSocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// A call failed that should not.
    #[error("{}: {deed}: {source}", path.display())]
    System {
        /// The socket's path.
        path: PathBuf,
        /// What was tried.
        deed: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
}

/// Where a socket of ours stands. Its number tells it from one that somebody put there since.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    inode: u64,
}

/// The path of an interface's socket.
pub fn path(directory: &Path, interface: &str) -> PathBuf {
    directory.join(format!("{interface}.sock"))
}

impl UapiSocket {
    /// Listens at the [`path`] of an interface, for its owner alone, and answers for the data plane. A socket that a dead
    /// process left is replaced; the directory is made if it is missing.
    ///
    /// # Errors
    ///
    /// See [`UapiSocketError`].
    pub fn bind(
        directory: &Path,
        interface: &str,
        dataplane: Arc<Dataplane>,
    ) -> Result<Self, UapiSocketError> {
        let path = path(directory, interface);
        let system = |deed| {
            let path = path.clone();
            move |source| UapiSocketError::System { path, deed, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(system("make its directory"))?;
        clear(&path)?;
        let listener = UnixListener::bind(&path).map_err(system("listen"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(system("make it private"))?;
        let inode = fs::symlink_metadata(&path).map_err(system("look at it"))?.ino();
        let mut socket = Self::serve(listener, dataplane).map_err(system("start its thread"))?;
        socket.place = Some(Place { path, inode });
        Ok(socket)
    }

    /// Answers on a socket that somebody else made, and leaves it where it is.
    ///
    /// # Errors
    ///
    /// If threads or file descriptors ran out.
    pub fn serve(listener: UnixListener, dataplane: Arc<Dataplane>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let stop = Arc::new(Signal::new()?);
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("wl-uapi".to_owned())
            .spawn(move || accept(&listener, &dataplane, &stopped))?;
        Ok(Self { place: None, stop, thread: Some(thread) })
    }
}

impl Drop for UapiSocket {
    fn drop(&mut self) {
        self.stop.raise();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed when it happened.
            let _ = thread.join();
        }
        if let Some(Place { path, inode }) = &self.place
            && fs::symlink_metadata(path).is_ok_and(|found| found.ino() == *inode)
        {
            // Nobody can be told here, and the next start clears it.
            let _ = fs::remove_file(path);
        }
    }
}

/// Makes way at the path: removes a socket that nobody answers on.
fn clear(path: &Path) -> Result<(), UapiSocketError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found,
    };
    let system =
        |deed| move |source| UapiSocketError::System { path: path.to_owned(), deed, source };
    if !found.map_err(system("look at it"))?.file_type().is_socket() {
        return Err(UapiSocketError::NoSocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system("remove what a dead process left"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(system("ask who answers")(source)),
        Ok(_) => Err(UapiSocketError::InUse { path: path.to_owned() }),
    }
}

fn accept(listener: &UnixListener, dataplane: &Dataplane, stop: &Signal) {
    thread::scope(|scope| {
        let mut serving = VecDeque::new();
        while matches!(stop.or_readable(listener, None), Ok(Wake::Ready)) {
            serving.retain(|thread: &thread::ScopedJoinHandle<'_, ()>| !thread.is_finished());
            if serving.len() >= CONNECTIONS {
                // The oldest ends soonest: none may be silent for long.
                if let Some(oldest) = serving.pop_front() {
                    let _ = oldest.join();
                }
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    let serve = move || {
                        if let Err(error) = converse(stream, dataplane, stop) {
                            tracing::debug!(%error, "a UAPI connection ended early");
                        }
                    };
                    let name = "wl-uapi-client".to_owned();
                    match thread::Builder::new().name(name).spawn_scoped(scope, serve) {
                        Ok(thread) => serving.push_back(thread),
                        Err(error) => tracing::warn!(%error, "a UAPI connection was refused"),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(%error, "the UAPI socket could not accept a connection");
                    // File descriptors may be short for a while.
                    let _ = stop.or_readable(stop, Some(Duration::from_millis(100)));
                }
            }
        }
    });
}

/// Answers requests until the client hangs up or is silent for too long.
fn converse(mut stream: UnixStream, dataplane: &Dataplane, stop: &Signal) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut requests = Requests::default();
    loop {
        while let Some(request) = requests.take() {
            stream.write_all(answer(dataplane, &request, &stream).as_bytes())?;
        }
        if requests.bytes.len() > REQUEST_BYTES {
            return stream.write_all(errno_text(uapi::EINVAL).as_bytes());
        }
        if stop.or_readable(&stream, Some(PATIENCE))? != Wake::Ready
            || !requests.read(&mut stream)?
        {
            return Ok(());
        }
    }
}

fn answer(dataplane: &Dataplane, request: &[u8], socket: impl AsFd) -> Zeroizing<String> {
    let scope = |link: &str| name_to_index(&socket, link).ok();
    let parsed = str::from_utf8(request).map(|text| Request::parse_with(text, scope));
    match parsed {
        Ok(Ok(Request::Get)) => dataplane.status().to_text(),
        Ok(Ok(Request::Set(change))) => {
            let result = dataplane.set(&change).inspect_err(|error| {
                tracing::warn!(%error, "a change of the device was refused");
            });
            errno_text(result.map_or_else(|error| error.errno(), |()| 0)).into()
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a UAPI request makes no sense");
            errno_text(uapi::EINVAL).into()
        }
        Err(error) => {
            tracing::warn!(%error, "a UAPI request is no text");
            errno_text(uapi::EINVAL).into()
        }
    }
}

/// What a client has sent. It may hold private keys, so no copy is left behind.
#[derive(Default)]
struct Requests {
    bytes: Zeroizing<Vec<u8>>,
    /// The bytes in which no end of a request was found.
    searched: usize,
}

impl Requests {
    /// Reads what is there; false when the client has hung up.
    fn read(&mut self, from: &mut impl io::Read) -> io::Result<bool> {
        let mut chunk = Zeroizing::new([0; 4096]);
        let length = from.read(&mut *chunk)?;
        let needed = self.bytes.len() + length;
        if self.bytes.capacity() < needed {
            // A vector that grows by itself would leave its old bytes in freed memory.
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
        self.bytes.extend_from_slice(&chunk[..length]);
        Ok(length > 0)
    }

    /// The first whole request, with the empty line that ends it.
    fn take(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let from = self.searched.saturating_sub(1);
        let Some(found) = self.bytes[from..].windows(2).position(|two| two == b"\n\n") else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = from + found + 2;
        let request = Zeroizing::new(self.bytes[..end].to_vec());
        self.bytes.drain(..end);
        self.searched = 0;
        Some(request)
    }
}

#[cfg(test)]
mod tests;
