//! TUN devices with checksum and segmentation offload (`Documentation/networking/tuntap.rst`, `linux/if_tun.h`).
//!
//! A device is made, never adopted by its name: one that exists already belongs to somebody. It is not persistent, so it
//! goes with its descriptors, one a queue. With one queue no second process can attach to it.
//!
//! Reads ask the kernel for super-packets, as far as it takes the request (`TUNSETOFFLOAD`). Writes are proven by
//! use: a device takes no frame before it is up, so a test of its own would need a device of its own. The first
//! super-packet that the kernel refuses is written again as packets, and that kind of super-packet is switched off.

mod holder;
mod read;
mod write;

use std::io;
use std::io::IoSlice;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use socket2::{Domain, Socket, Type};
use wireloom_packet::vnet::VNET_HEADER_BYTES;
use wireloom_packet::{MergeOffloads, VnetHeader};

use crate::seam::{TunDevice, TunRead, TunWrite};
use crate::sys::{self, InterfaceName};

pub(crate) use write::{FrameSink, WriteSwitches};

/// The packets that wait for the reader at most: what a burst of small datagrams needs; latency under load stays as it
/// is with the kernel's 500, since the reader empties the queue in batches.
pub const QUEUE_PACKETS: u32 = 4000;
/// The MTU that leaves room for WireGuard over IPv6 in 1500 bytes, in bytes.
pub const DEFAULT_MTU: u32 = 1420;

const CLONE_DEVICE: &str = "/dev/net/tun";
const KIND: i32 = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// What device is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// How many queues it has; the kernel takes 256 at most.
    pub queues: NonZeroUsize,
}

/// A TUN device.
#[derive(Debug)]
pub struct Tun {
    /// The descriptor of each queue; there is one at least.
    queues: Vec<Arc<OwnedFd>>,
    name: InterfaceName,
    /// A socket of the device's network namespace, to ask for its MTU from any thread.
    namespace: Socket,
    reads: Mutex<UnfinishedPackets>,
    writes: WriteSwitches,
}

/// The super-packets that a device hands out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnfinishedPackets {
    /// Packets whose checksum is not complete. All others need this.
    pub checksum: bool,
    /// TCP, both families.
    pub tcp: bool,
    /// UDP, both families (Linux 6.2).
    pub udp: bool,
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunError {
    /// The descriptor is not a TUN device that this program can use.
    #[error(
        "the descriptor's device {name:?} has the flags {flags:#x}: make it with IFF_TUN | IFF_NO_PI | IFF_VNET_HDR"
    )]
    Adopted {
        /// The device's name.
        name: String,
        /// Its flags (`linux/if_tun.h`).
        flags: i32,
    },
    /// The name belongs to another TUN device.
    #[error(
        "the interface {name} exists already and is held by {holder}: stop that, or choose another name"
    )]
    Busy {
        /// The name.
        name: String,
        /// Who holds it, as far as this process may see.
        holder: String,
    },
    /// The name belongs to an interface of another kind.
    #[error(
        "the interface {name} exists already and is no TUN device (its driver is {driver}): choose another name"
    )]
    Foreign {
        /// The name.
        name: String,
        /// The driver behind it.
        driver: String,
    },
    /// No interface can have this name.
    #[error(
        "{name:?} cannot be an interface's name: use 1 to 15 letters, digits, - _ . and no space, / : %"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel offers no TUN devices here.
    #[error(
        "{CLONE_DEVICE} is missing ({source}): load the module (`modprobe tun`), or give the container that device"
    )]
    NoDevice {
        /// The operating system's word.
        source: io::Error,
    },
    /// The process may not make devices.
    #[error("no permission to {deed} ({source}): run as root or with CAP_NET_ADMIN")]
    Permission {
        /// What was tried.
        deed: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
    /// A call failed that should not.
    #[error("TUN device {name}: {deed}: {source}")]
    System {
        /// The name.
        name: String,
        /// What was tried.
        deed: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
}

impl Tun {
    /// Makes a device in the network namespace of the calling thread. It is down.
    ///
    /// # Errors
    ///
    /// See [`TunError`].
    pub fn create(config: &TunConfig) -> Result<Self, TunError> {
        let name = interface_name(&config.name)
            .ok_or_else(|| TunError::Name { name: config.name.clone() })?;
        let several = if config.queues.get() > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
        let fd = open()?;
        let namespace = namespace_socket(&config.name)?;
        match sys::tun_set_interface(fd.as_fd(), &name, KIND | several | libc::IFF_TUN_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(taken(&namespace, &name));
            }
            made => made.map_err(|source| failed(&config.name, "make the device", source))?,
        };
        let mut tun = Self::set_up(fd, name, namespace)?;
        for _ in 1..config.queues.get() {
            let fd = open()?;
            sys::tun_set_interface(fd.as_fd(), &name, KIND | several)
                .map_err(|source| failed(&config.name, "add a queue", source))?;
            tun.queues.push(Arc::new(fd));
        }
        tun.set_mtu(config.mtu)?;
        sys::set_interface_queue(tun.namespace.as_fd(), &name, QUEUE_PACKETS)
            .map_err(|source| failed(&config.name, "set its queue's length", source))?;
        Ok(tun)
    }

    /// Takes over open queues of a device that somebody else made, with its MTU as it is.
    ///
    /// # Errors
    ///
    /// If there are none, or a descriptor is no TUN device's, or one that was not made for IP packets with a virtio-net
    /// header and without a protocol header.
    pub fn adopt(queues: impl IntoIterator<Item = OwnedFd>) -> Result<Self, TunError> {
        let mut tun: Option<Self> = None;
        for fd in queues {
            let (name, flags) = sys::tun_interface(fd.as_fd())
                .map_err(|source| failed("of the given descriptor", "ask for its name", source))?;
            let text = sys::text(&name);
            if flags & KIND != KIND {
                return Err(TunError::Adopted { name: text, flags });
            }
            rustix::io::ioctl_fionbio(&fd, true)
                .map_err(|errno| failed(&text, "make its descriptor non-blocking", errno.into()))?;
            match &mut tun {
                Some(tun) => tun.queues.push(Arc::new(fd)),
                None => tun = Some(Self::set_up(fd, name, namespace_socket(&text)?)?),
            }
        }
        let none =
            || failed("of the given descriptors", "take it over", io::ErrorKind::NotFound.into());
        tun.ok_or_else(none)
    }

    /// The queues once more, for another process to [adopt](Self::adopt). This one must have stopped reading them.
    ///
    /// # Errors
    ///
    /// If there are too many open files.
    pub fn hand_over(&self) -> io::Result<Vec<OwnedFd>> {
        self.queues.iter().map(|queue| queue.try_clone()).collect()
    }

    fn set_up(fd: OwnedFd, name: InterfaceName, namespace: Socket) -> Result<Self, TunError> {
        sys::tun_set_header_bytes(fd.as_fd(), VNET_HEADER_BYTES)
            .map_err(|source| failed(&sys::text(&name), "set its header's length", source))?;
        let (queues, reads) = (vec![Arc::new(fd)], Mutex::default());
        let tun = Self { queues, name, namespace, reads, writes: WriteSwitches::default() };
        tun.set_reads(UnfinishedPackets { checksum: true, tcp: true, udp: true });
        tun.set_writes(MergeOffloads { tcp4: true, tcp6: true, udp: true });
        Ok(tun)
    }

    /// The device's name.
    pub fn name(&self) -> String {
        sys::text(&self.name)
    }

    /// A queue's descriptor. What holds for the device can be asked of any.
    fn queue(&self, queue: usize) -> &Arc<OwnedFd> {
        &self.queues[queue % self.queues.len()]
    }

    /// Sets the device's MTU, in bytes.
    ///
    /// # Errors
    ///
    /// If the kernel does not take it, or the device is gone.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), TunError> {
        sys::set_interface_mtu(self.namespace.as_fd(), &self.name, mtu)
            .map_err(|source| failed(&self.name(), "set its MTU", source))
    }
}

impl TunDevice for Tun {
    fn readers(&self) -> Vec<Box<dyn TunRead>> {
        let reader = |fd| Box::new(read::TunReader::new(Arc::clone(fd))) as Box<dyn TunRead>;
        self.queues.iter().map(reader).collect()
    }

    fn mtu(&self) -> io::Result<u32> {
        sys::interface_mtu(self.namespace.as_fd(), &self.name)
    }

    fn reads(&self) -> UnfinishedPackets {
        *self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_reads(&self, wanted: UnfinishedPackets) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = self.queue(0).as_fd();
        *reads = wanted.narrowed(|reads| sys::tun_set_offload(fd, reads.features()).is_ok());
    }

    fn writes(&self) -> MergeOffloads {
        self.writes.offloads()
    }

    fn set_writes(&self, offloads: MergeOffloads) {
        self.writes.set(offloads);
    }

    fn refused(&self) -> u64 {
        self.writes.refused()
    }
}

impl TunWrite for Tun {
    fn write(
        &self,
        queue: usize,
        header: &VnetHeader,
        parts: &[Range<usize>],
        bytes: &[u8],
    ) -> io::Result<()> {
        self.writes.write(&**self.queue(queue), header, parts, bytes)
    }
}

impl FrameSink for OwnedFd {
    /// One system call: a TUN device takes a frame whole or not at all.
    fn take(&self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        loop {
            match rustix::io::writev(self, frame) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue(0).as_fd()
    }
}

impl UnfinishedPackets {
    /// The most of these that a device takes.
    pub(crate) fn narrowed(self, takes: impl Fn(&Self) -> bool) -> Self {
        let without_udp = Self { udp: false, ..self };
        let narrower = [self, without_udp, Self { tcp: false, ..without_udp }];
        narrower.into_iter().find(takes).unwrap_or_default()
    }

    const fn features(self) -> u32 {
        let mut features = 0;
        if self.checksum {
            features |= libc::TUN_F_CSUM;
            if self.tcp {
                features |= libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
            }
            if self.udp {
                features |= libc::TUN_F_USO4 | libc::TUN_F_USO6;
            }
        }
        features
    }
}

/// Whether an error of a read or a write says that the device was deleted.
pub fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADFD | libc::ENODEV | libc::ENXIO))
}

/// The name as the kernel takes it (`dev_valid_name`, `net/core/dev.c`); `%` would make it a pattern.
fn interface_name(name: &str) -> Option<InterfaceName> {
    let bytes = name.as_bytes();
    let legal = (1..libc::IFNAMSIZ).contains(&bytes.len())
        && !matches!(name, "." | "..")
        && bytes.iter().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(byte));
    let mut padded = [0; libc::IFNAMSIZ];
    padded.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    legal.then_some(padded)
}

/// A descriptor that is no device's yet.
fn open() -> Result<OwnedFd, TunError> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(CLONE_DEVICE, flags, Mode::empty()).map_err(|errno| cannot_open(errno.into()))
}

fn namespace_socket(name: &str) -> Result<Socket, TunError> {
    Socket::new(Domain::IPV4, Type::DGRAM, None)
        .or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, None))
        .map_err(|source| failed(name, "open a socket beside it", source))
}

/// Whose the name is.
fn taken(namespace: &Socket, name: &InterfaceName) -> TunError {
    let driver = sys::interface_driver(namespace.as_fd(), name)
        .unwrap_or_else(|_| "without a name".to_owned());
    let name = sys::text(name);
    if driver == "tun" {
        let holder = holder::find(&name).unwrap_or_else(|| "a process out of sight".to_owned());
        TunError::Busy { name, holder }
    } else {
        TunError::Foreign { name, driver }
    }
}

fn cannot_open(source: io::Error) -> TunError {
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDevice { source },
        Some(libc::EACCES | libc::EPERM) => {
            TunError::Permission { deed: "open /dev/net/tun", source }
        }
        _ => failed("(not made yet)", "open /dev/net/tun", source),
    }
}

fn failed(name: &str, deed: &'static str, source: io::Error) -> TunError {
    if matches!(source.raw_os_error(), Some(libc::EACCES | libc::EPERM)) {
        return TunError::Permission { deed, source };
    }
    TunError::System { name: name.to_owned(), deed, source }
}

#[cfg(test)]
mod tests;
