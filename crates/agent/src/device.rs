//! The seam between the agent and a WireGuard device, whoever runs it: ours in this process, ours in another one, any
//! device that answers the cross-platform UAPI, or the kernel's own.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use wireloom_kernel::{WireguardDevice, WireguardError};
use wireloom_model::kernel::LinkKind;
use wireloom_model::{InterfaceName, PrivateKey, PublicKey};
use wireloom_tunnel::uapi::{self, DeviceStatus, PathStatus, SetDevice};

use crate::handshakes::Handshakes;

/// A WireGuard device that is up. Calls block for microseconds in this process and for one exchange over a socket.
pub trait TunnelDevice: Send + Sync {
    /// Changes what the request names and leaves everything else alone, sessions above all.
    fn set(&self, request: &SetDevice) -> Result<(), DeviceError>;

    /// The device's configuration, peers and counters.
    fn status(&self) -> Result<DeviceStatus, DeviceError>;

    /// What link the device stands on, and so who makes it and takes it away.
    fn link(&self) -> LinkKind {
        LinkKind::Held
    }

    /// Whether device and link stay when the agent goes. Then it takes its configuration back, and the link down.
    fn outlives_agent(&self) -> bool {
        false
    }

    /// Stops the device and gives away the open queues of its link, for another process to go on with. None if that is not
    /// how it works: then it goes on by itself, or goes with its link.
    fn hand_over(&self) -> Vec<OwnedFd> {
        Vec::new()
    }

    /// How the device moves packets, as far as it says.
    fn path(&self) -> PathReport {
        self.status().map(|status| status.path.into()).unwrap_or_default()
    }
}

/// How a data plane moves packets: for people, and for a look at what changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathReport {
    /// What makes the device's handshakes and holds its sessions.
    pub engine: Option<String>,
    /// Offloads by name, and whether each is in use.
    pub offloads: BTreeMap<String, bool>,
    /// Packets dropped, by reason, leaving out reasons that never occurred.
    pub drops: BTreeMap<String, u64>,
}

impl From<PathStatus> for PathReport {
    fn from(PathStatus { engine, offloads, drops }: PathStatus) -> Self {
        Self { engine, offloads, drops }
    }
}

/// Makes the device, at start and again when it was deleted under the agent.
pub trait OpenDevice: Send {
    /// Has the next device stand on these queues, which another process [handed over](TunnelDevice::hand_over).
    fn inherit(&mut self, _queues: Vec<OwnedFd>) {}

    /// Makes the device. A device that ends by itself later says why through `ended`.
    fn open(
        &mut self,
        ended: mpsc::UnboundedSender<String>,
    ) -> Result<Arc<dyn TunnelDevice>, DeviceError>;
}

/// Why a device could not be made, read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The kernel's WireGuard can't be had, read or changed.
    #[error(transparent)]
    Kernel(#[from] WireguardError),
    /// There is a WireGuard device of this name that somebody else set up, with another key.
    #[error(
        "{interface} is somebody else's WireGuard device, with the public key {key}: give ours another name (--interface), \
         or take that one away: ip link delete {interface}"
    )]
    Anothers {
        /// Its name.
        interface: InterfaceName,
        /// Its key.
        key: PublicKey,
    },
    /// The device could not be made.
    #[error("{0}")]
    Open(String),
    /// The device refused a request.
    #[error("the device refused a change: {0}")]
    Refused(String),
    /// The device's socket can't be reached or does not speak the protocol.
    #[error("{}: {reason}", socket.display())]
    Socket {
        /// The socket's path.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

/// A device behind a UAPI socket, such as `/var/run/wireguard/wg0.sock` (<https://www.wireguard.com/xplatform/>).
#[derive(Debug, Clone)]
pub struct UapiClient {
    socket: PathBuf,
}

/// How long one exchange over the socket may take.
const EXCHANGE: Duration = Duration::from_secs(5);

impl UapiClient {
    /// A client of the socket at this path. Nothing is opened yet.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    fn exchange(&self, request: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(EXCHANGE))?;
        stream.set_write_timeout(Some(EXCHANGE))?;
        stream.write_all(request.as_bytes())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn failed(&self, reason: impl std::fmt::Display) -> DeviceError {
        DeviceError::Socket { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

impl TunnelDevice for UapiClient {
    fn set(&self, request: &SetDevice) -> Result<(), DeviceError> {
        let answer = self.exchange(&request.to_text()).map_err(|error| self.failed(error))?;
        SetDevice::parse_response(&answer).map_err(|error| DeviceError::Refused(error.to_string()))
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        let answer = self.exchange(uapi::get_text()).map_err(|error| self.failed(error))?;
        DeviceStatus::parse(&answer).map_err(|error| self.failed(error))
    }
}

/// A device behind a UAPI socket that an agent drives. One with another key and peers is somebody else's, unless it has
/// our mark: then an agent of ours has set it up, and this machine has got another key since.
#[derive(Debug, Clone)]
pub struct UapiDevice {
    client: UapiClient,
    interface: InterfaceName,
    /// This machine's key.
    key: PublicKey,
    /// The mark that it is given. Without one (0), nothing tells somebody else's device from ours.
    mark: u32,
    handshakes: Handshakes,
}

impl UapiDevice {
    /// The device of this name behind the socket at this path. Nothing is opened yet.
    pub fn new(socket: &Path, interface: InterfaceName, key: PublicKey, mark: u32) -> Self {
        let handshakes = Handshakes::default();
        Self { client: UapiClient::new(socket), interface, key, mark, handshakes }
    }
}

impl TunnelDevice for UapiDevice {
    fn set(&self, request: &SetDevice) -> Result<(), DeviceError> {
        self.client.set(request)
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        let mut status = self.client.status()?;
        self.handshakes.put_right(&mut status);
        let key = status.private_key.as_ref().map(PrivateKey::public_key);
        match key.filter(|key| *key != self.key) {
            Some(key) if status.fwmark != self.mark && !status.peers.is_empty() => {
                Err(DeviceError::Anothers { interface: self.interface.clone(), key })
            }
            _ => Ok(status),
        }
    }

    fn outlives_agent(&self) -> bool {
        true
    }
}

/// A WireGuard device of the kernel. It goes with its link if the agent made that. One that somebody else made is taken
/// over only if it is this machine's already, by its key, or nobody's; then it stays.
#[derive(Debug)]
struct KernelDevice {
    device: WireguardDevice,
    interface: InterfaceName,
    /// This machine's key.
    key: PublicKey,
    handshakes: Handshakes,
}

impl TunnelDevice for KernelDevice {
    fn set(&self, request: &SetDevice) -> Result<(), DeviceError> {
        Ok(self.device.set(request)?)
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        let mut status = self.device.status()?;
        self.handshakes.put_right(&mut status);
        let key = status.private_key.as_ref().map(PrivateKey::public_key);
        match key.filter(|key| *key != self.key) {
            Some(key) if self.device.is_anothers()? => {
                Err(DeviceError::Anothers { interface: self.interface.clone(), key })
            }
            _ => Ok(status),
        }
    }

    fn link(&self) -> LinkKind {
        let is_taken_over = self.device.is_anothers().unwrap_or(false) && self.status().is_ok();
        if is_taken_over { LinkKind::Held } else { LinkKind::WireGuard }
    }

    fn outlives_agent(&self) -> bool {
        self.link() == LinkKind::Held
    }

    fn path(&self) -> PathReport {
        PathReport { engine: Some("the kernel".to_owned()), ..PathReport::default() }
    }
}

/// Finds a device that another process runs behind its UAPI socket. It may come and go as it likes: whenever it answers,
/// it is brought in line.
impl OpenDevice for UapiDevice {
    fn open(
        &mut self,
        _ended: mpsc::UnboundedSender<String>,
    ) -> Result<Arc<dyn TunnelDevice>, DeviceError> {
        Ok(Arc::new(self.clone()))
    }
}

/// Finds the kernel's WireGuard; the agent makes the device's link like any other, unless it is there.
#[derive(Debug, Clone)]
pub struct KernelOpener {
    /// The device's name.
    pub interface: InterfaceName,
    /// This machine's key: a device of that name with another one is somebody else's.
    pub key: PublicKey,
}

impl OpenDevice for KernelOpener {
    fn open(
        &mut self,
        _ended: mpsc::UnboundedSender<String>,
    ) -> Result<Arc<dyn TunnelDevice>, DeviceError> {
        let Self { interface, key } = self.clone();
        let device = WireguardDevice::open(interface.clone())?;
        Ok(Arc::new(KernelDevice { device, interface, key, handshakes: Handshakes::default() }))
    }
}
