//! The data plane in this process, as the agent and the tunnel command use it.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::Context as _;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio::sync::mpsc;
use wireloom_agent::device::{DeviceError, OpenDevice, PathReport, TunnelDevice};
use wireloom_dataplane::{Config, Dataplane, Ended, Offloads, UapiSocket};
use wireloom_io::tun::DEFAULT_MTU;
use wireloom_io::{BindError, Binding, RouteWatch, Tun, TunConfig, UdpBind, UdpBinder, inherited};
use wireloom_kernel::port_owner;
use wireloom_model::{Family, InterfaceName};
use wireloom_tunnel::EngineKind;
use wireloom_tunnel::uapi::{DeviceStatus, SetDevice};

use crate::keys;
use crate::queues::Queues;

/// The kernel's sockets, with a port's holder named when it is taken.
struct NamingBinder(UdpBinder);

impl UdpBind for NamingBinder {
    fn bind(&self, port: u16, mark: u32, queues: NonZeroUsize) -> Result<Binding, BindError> {
        self.0.bind(port, mark, queues).map_err(|mut error| {
            if let BindError::PortInUse { port, family, holder } = &mut error {
                let family = if *family == "IPv4" { Family::V4 } else { Family::V6 };
                *holder = port_owner(*port, family).map(|owner| owner.to_string());
            }
            error
        })
    }

    fn routes(&self) -> Option<Box<dyn RouteWatch>> {
        self.0.routes()
    }
}

/// A device that runs in this process, with its UAPI socket. Dropping it stops it and removes both.
pub(crate) struct LocalDevice {
    socket: Mutex<Option<UapiSocket>>,
    dataplane: Arc<Dataplane>,
    tun: Arc<Tun>,
}

/// Where a device's parts come from.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) interface: InterfaceName,
    pub(crate) uapi_directory: PathBuf,
    /// A descriptor of a socket that somebody else listens with.
    pub(crate) uapi: Option<i32>,
    pub(crate) carrier: CarrierArgs,
}

/// How a device of ours carries packets.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct CarrierArgs {
    /// What makes handshakes and holds sessions; the other end can't tell.
    #[arg(
        long,
        env = "WIRELOOM_ENGINE",
        default_value_t = EngineKind::default(),
        value_parser = engines(),
        value_name = "ENGINE"
    )]
    pub(crate) engine: EngineKind,
    /// How many queues carry packets, each with threads of its own; auto goes by the cores.
    #[arg(long, env = "WIRELOOM_QUEUES", default_value_t, value_name = "N|auto")]
    pub(crate) queues: Queues,
}

/// Every engine by its name.
pub(crate) fn engines() -> impl TypedValueParser<Value = EngineKind> {
    PossibleValuesParser::new(EngineKind::ALL.map(EngineKind::label))
        .try_map(|name| name.parse::<EngineKind>())
}

impl LocalDevice {
    /// Makes the device in the network namespace of the calling thread, on a TUN device that somebody else made if there
    /// are queues of one.
    pub(crate) fn open(parts: &Parts, queues: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let tun = if queues.is_empty() {
            Tun::create(&TunConfig {
                name: parts.interface.to_string(),
                mtu: DEFAULT_MTU,
                queues: parts.carrier.queues.count(),
            })?
        } else {
            Tun::adopt(queues)?
        };
        let config = Config {
            seed: keys::random_bytes()?,
            listen_port: 0,
            fwmark: 0,
            offloads: Offloads::ALL,
            engine: parts.carrier.engine,
        };
        let network = NamingBinder(UdpBinder::new());
        let tun = Arc::new(tun);
        let dataplane = Arc::new(Dataplane::start(Arc::clone(&tun) as _, network, config)?);
        let socket = match parts.uapi {
            Some(number) => {
                let descriptor = inherited::descriptor(number)
                    .with_context(|| format!("UAPI socket descriptor {number}"))?;
                UapiSocket::serve(UnixListener::from(descriptor), Arc::clone(&dataplane))
                    .with_context(|| format!("UAPI socket descriptor {number}"))?
            }
            None => {
                let (directory, interface) = (&parts.uapi_directory, parts.interface.as_str());
                UapiSocket::bind(directory, interface, Arc::clone(&dataplane))?
            }
        };
        Ok(Self { socket: Mutex::new(Some(socket)), dataplane, tun })
    }

    /// The data plane itself.
    pub(crate) fn dataplane(&self) -> Arc<Dataplane> {
        Arc::clone(&self.dataplane)
    }

    fn stop(&self) {
        // Before the data plane, so that nobody asks a device that has stopped.
        drop(self.socket.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.dataplane.stop();
    }
}

impl Drop for LocalDevice {
    fn drop(&mut self) {
        self.stop();
    }
}

impl TunnelDevice for LocalDevice {
    fn set(&self, request: &SetDevice) -> Result<(), DeviceError> {
        self.dataplane.set(request).map_err(|error| DeviceError::Refused(error.to_string()))
    }

    fn status(&self) -> Result<DeviceStatus, DeviceError> {
        Ok(self.dataplane.status())
    }

    fn hand_over(&self) -> Vec<OwnedFd> {
        self.stop();
        let queues = self.tun.hand_over();
        queues
            .inspect_err(|error| tracing::warn!(%error, "the device can't be handed over"))
            .unwrap_or_default()
    }

    fn path(&self) -> PathReport {
        self.dataplane.path().into()
    }
}

/// Makes [`LocalDevice`]s for the agent.
pub(crate) struct DataplaneOpener {
    parts: Parts,
    /// The queues of the TUN device that the next one stands on.
    queues: Vec<OwnedFd>,
}

impl DataplaneOpener {
    pub(crate) const fn new(
        interface: InterfaceName,
        uapi_directory: PathBuf,
        carrier: CarrierArgs,
    ) -> Self {
        Self { parts: Parts { interface, uapi_directory, uapi: None, carrier }, queues: Vec::new() }
    }
}

impl OpenDevice for DataplaneOpener {
    fn inherit(&mut self, queues: Vec<OwnedFd>) {
        self.queues = queues;
    }

    fn open(
        &mut self,
        ended: mpsc::UnboundedSender<String>,
    ) -> Result<Arc<dyn TunnelDevice>, DeviceError> {
        let failed = |error: anyhow::Error| DeviceError::Open(format!("{error:#}"));
        let device =
            LocalDevice::open(&self.parts, std::mem::take(&mut self.queues)).map_err(failed)?;
        let dataplane = device.dataplane();
        let watch = move || {
            let reason = dataplane.wait();
            if !matches!(reason, Ended::Stopped) {
                // Fails only if the agent has ended itself.
                let _ = ended.send(reason.to_string());
            }
        };
        let thread = thread::Builder::new().name("wl-watch".to_owned()).spawn(watch);
        thread.context("start a thread").map_err(failed)?;
        Ok(Arc::new(device))
    }
}
