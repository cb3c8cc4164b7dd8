//! The data plane as its owner sees it.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use wireloom_io::udp::nowhere;
use wireloom_io::{BindError, TunDevice, UdpBind};
use wireloom_tunnel::uapi::{DeviceStatus, PathStatus, SetDevice};
use wireloom_tunnel::{Device, DropCounts, EngineKind};

use crate::counters::Counters;
use crate::offloads::Offloads;
use crate::shared::{Ended, Outlet, Shared, lock};
use crate::sockets::Sockets;
use crate::{routes, send, timer};

/// What a data plane starts with. Keys and peers come by [`Dataplane::set`].
#[derive(Debug, Clone)]
pub struct Config {
    /// The seed of all randomness but the ephemeral keys'; secret and never used twice.
    pub seed: [u8; 32],
    /// The UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: u16,
    /// The mark of outer packets; 0 is none.
    pub fwmark: u32,
    /// The offloads that are wanted.
    pub offloads: Offloads,
    /// What makes handshakes and holds sessions.
    pub engine: EngineKind,
}

/// A running WireGuard device: a TUN device, sockets, and the threads between them. Dropping it stops it.
pub struct Dataplane {
    shared: Arc<Shared>,
    network: Box<dyn UdpBind>,
    control: Mutex<Control>,
}

/// What changes of the configuration are made under.
struct Control {
    sockets: Option<Sockets>,
    threads: Vec<JoinHandle<()>>,
    offloads: Offloads,
}

/// Why a data plane could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The sockets could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Threads or file descriptors ran out.
    #[error("the data plane's threads could not be started: {0}")]
    System(#[from] io::Error),
}

/// Why a change was refused. Nothing of the change was made then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetError {
    /// The new listen port could not be bound; the old one stays.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The data plane has ended.
    #[error("the device has ended: {0}")]
    Ended(Ended),
    /// The mark could not be set.
    #[error("the firewall mark {mark:#x} could not be set ({source}): it needs CAP_NET_ADMIN")]
    Mark {
        /// The mark.
        mark: u32,
        /// The operating system's word.
        source: io::Error,
    },
    /// Threads or file descriptors ran out.
    #[error("the new sockets' threads could not be started: {0}")]
    System(#[from] io::Error),
}

impl SetError {
    /// The error number that the UAPI answers (`errno=`).
    pub fn errno(&self) -> i32 {
        use rustix::io::Errno;
        let of = |error: &io::Error| error.raw_os_error();
        match self {
            Self::Bind(BindError::PortInUse { .. }) => Errno::ADDRINUSE.raw_os_error(),
            Self::Bind(BindError::System { source, .. })
            | Self::Mark { source, .. }
            | Self::System(source) => of(source).unwrap_or(Errno::IO.raw_os_error()),
            Self::Bind(_) => Errno::AFNOSUPPORT.raw_os_error(),
            Self::Ended(_) => Errno::NODEV.raw_os_error(),
        }
    }
}

impl Dataplane {
    /// Binds the sockets and starts the threads.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn start(
        tun: Arc<dyn TunDevice>,
        network: impl UdpBind + 'static,
        config: Config,
    ) -> Result<Self, StartError> {
        let Config { seed, listen_port, fwmark, offloads, engine } = config;
        let readers = tun.readers();
        let queues = NonZeroUsize::new(readers.len()).unwrap_or(NonZeroUsize::MIN);
        let binding = network.bind(listen_port, fwmark, queues)?;
        offloads.apply(&*tun, &*binding.sender);
        let outlet = Outlet { port: binding.port, sender: Arc::clone(&binding.sender) };
        let device = Device::with_engine(seed, engine);
        let shared = Arc::new(Shared::new(device, tun, outlet, queues)?);
        shared.mark.store(fwmark, Ordering::Relaxed);
        let control = Control { sockets: None, threads: Vec::new(), offloads };
        // From here on dropping `dataplane` stops what was started.
        let dataplane = Self { shared, network: Box::new(network), control: Mutex::new(control) };
        let mut control = lock(&dataplane.control);
        control.sockets = Some(Sockets::start(&dataplane.shared, binding)?);
        for (queue, reader) in readers.into_iter().enumerate() {
            let shared = Arc::clone(&dataplane.shared);
            let send = move || send::run(&shared, queue, reader);
            control.threads.push(spawn(&format!("wl-send-{queue}"), send)?);
        }
        let shared = Arc::clone(&dataplane.shared);
        control.threads.push(spawn("wl-timer", move || timer::run(&shared))?);
        if let Some(routes) = dataplane.network.routes() {
            let shared = Arc::clone(&dataplane.shared);
            control.threads.push(spawn("wl-routes", move || routes::run(&shared, routes))?);
        }
        drop(control);
        Ok(dataplane)
    }

    /// Changes the configuration; what is not named stays. A new listen port is bound before the old one is given up,
    /// and sessions outlive it.
    ///
    /// # Errors
    ///
    /// See [`SetError`].
    pub fn set(&self, change: &SetDevice) -> Result<(), SetError> {
        let mut control = lock(&self.control);
        if let Some(reason) = self.shared.ended() {
            return Err(SetError::Ended(reason));
        }
        let former = self.shared.mark.load(Ordering::Relaxed);
        let fwmark = change.fwmark.unwrap_or(former);
        match change.listen_port {
            Some(port) if port != self.port() || port == 0 => {
                let binding = self.network.bind(port, fwmark, self.queues())?;
                binding.sender.set_offloads(control.offloads.gso, control.offloads.gro);
                // The old sockets are given up by the assignment, when the new ones are in use.
                control.sockets = Some(Sockets::start(&self.shared, binding)?);
            }
            _ if fwmark != former => {
                let set = self.shared.outlet.load().sender.set_mark(fwmark);
                set.map_err(|source| SetError::Mark { mark: fwmark, source })?;
            }
            _ => {}
        }
        self.shared.mark.store(fwmark, Ordering::Relaxed);
        // What it leaves to us, the port and the mark, is done.
        let _ = self.shared.device.set(self.shared.now(), change);
        self.shared.arm();
        Ok(())
    }

    /// The device's configuration and its peers' state, as `get=1` shows them.
    pub fn status(&self) -> DeviceStatus {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut status = self.shared.device.status(self.shared.now(), wall);
        status.listen_port = self.port();
        status.fwmark = self.shared.mark.load(Ordering::Relaxed);
        status.path = self.path();
        status
    }

    /// How the device moves packets: what [`status`](Self::status) tells of it too.
    pub fn path(&self) -> PathStatus {
        let drops = self.drops();
        let counters = self.counters();
        let counted = counters.iter().filter(|(counter, _)| counter.is_drop());
        PathStatus {
            engine: Some(self.engine().to_string()),
            offloads: self.offloads().iter().map(|(name, on)| (name.to_owned(), on)).collect(),
            drops: drops
                .iter()
                .map(|(reason, count)| (reason.label(), count))
                .chain(counted.map(|(counter, count)| (counter.label(), count)))
                .filter(|(_, count)| *count > 0)
                .map(|(label, count)| (label.to_owned(), count))
                .collect(),
        }
    }

    /// The UDP port that the device listens on.
    pub fn port(&self) -> u16 {
        self.shared.outlet.load().port
    }

    /// How many queues the TUN device has, each with threads of its own.
    pub fn queues(&self) -> NonZeroUsize {
        NonZeroUsize::new(self.shared.queues.len()).unwrap_or(NonZeroUsize::MIN)
    }

    /// What makes handshakes and holds sessions.
    pub fn engine(&self) -> EngineKind {
        self.shared.device.engine()
    }

    /// The offloads in use. One that is wanted and not in use is not offered by the kernel, or was refused by it.
    pub fn offloads(&self) -> Offloads {
        Offloads::in_use(&*self.shared.tun, &*self.shared.outlet.load().sender)
    }

    /// Switches offloads while packets flow. One that the kernel refused is tried again.
    pub fn set_offloads(&self, wanted: Offloads) {
        let mut control = lock(&self.control);
        control.offloads = wanted;
        wanted.apply(&*self.shared.tun, &*self.shared.outlet.load().sender);
    }

    /// The super-packets that the TUN device refused and that were written as packets.
    pub fn refused_super_packets(&self) -> u64 {
        self.shared.tun.refused()
    }

    /// What the threads counted since the start.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.shared.queues.iter().for_each(|queue| {
            queue.sent.add_to(&mut sum);
            queue.received.add_to(&mut sum);
        });
        sum
    }

    /// What the device dropped since the start, by reason.
    pub fn drops(&self) -> DropCounts {
        self.shared.device.drops()
    }

    /// Waits until the data plane has ended, by [`stop`](Self::stop) or by itself, and says why.
    pub fn wait(&self) -> Ended {
        self.shared.wait()
    }

    /// Why the data plane has ended, if it has.
    pub fn ended(&self) -> Option<Ended> {
        self.shared.ended()
    }

    /// Stops all threads and waits for them. The sockets are closed then, and their port is free; the TUN device goes with
    /// the last owner of its descriptor.
    pub fn stop(&self) {
        self.shared.end(Ended::Stopped);
        let mut control = lock(&self.control);
        control.sockets = None;
        for thread in control.threads.drain(..) {
            // A panic of a thread was printed when it happened.
            let _ = thread.join();
        }
        // Nobody sends any more, and what was sent with holds the sockets.
        self.shared.outlet.store(Arc::new(Outlet { port: self.port(), sender: nowhere() }));
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane").field("port", &self.port()).finish_non_exhaustive()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}
