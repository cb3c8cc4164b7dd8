//! Where an agent's device comes from.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
#[cfg(feature = "kubernetes")]
use serde::Deserialize;
use tokio::sync::mpsc;
use wireloom_agent::device::{DeviceError, KernelOpener, OpenDevice, TunnelDevice, UapiDevice};
use wireloom_dataplane::uapi_socket;
use wireloom_model::{InterfaceName, PublicKey};

use crate::device::{CarrierArgs, DataplaneOpener};

/// Which device an agent uses, and how.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct DeviceArgs {
    /// Who runs the WireGuard device.
    #[arg(long, env = "WIRELOOM_DEVICE", value_enum, default_value_t, value_name = "DEVICE")]
    device: DeviceKind,
    #[command(flatten)]
    carrier: CarrierArgs,
}

/// Who runs a WireGuard device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[cfg_attr(feature = "kubernetes", derive(Deserialize), serde(rename_all = "kebab-case"))]
pub(crate) enum DeviceKind {
    /// The kernel, which needs its WireGuard module. A device of this name that has this machine's key already, or none, is
    /// taken over as it is, and stays when the agent goes.
    Kernel,
    /// This process: the device goes when the agent goes.
    #[default]
    Own,
    /// Another process, by its socket in /var/run/wireguard, such as `wireloom tunnel`: packets pass while the agent is
    /// away. A device that somebody else has set up, with another key and peers, is left alone.
    Uapi,
}

impl DeviceArgs {
    pub(crate) fn opener(self, interface: InterfaceName, key: PublicKey, mark: u32) -> Opener {
        self.device.opener(interface, key, mark, self.carrier)
    }
}

impl DeviceKind {
    /// What finds or makes such a device of this name for a machine with this key, for packets with this mark; one of our own
    /// as these say.
    pub(crate) fn opener(
        self,
        interface: InterfaceName,
        key: PublicKey,
        mark: u32,
        carrier: CarrierArgs,
    ) -> Opener {
        let directory = Path::new(uapi_socket::DIRECTORY);
        match self {
            Self::Kernel => Opener::Kernel(KernelOpener { interface, key }),
            Self::Own => Opener::Own(DataplaneOpener::new(interface, directory.into(), carrier)),
            Self::Uapi => {
                let socket = uapi_socket::path(directory, interface.as_str());
                Opener::Uapi(UapiDevice::new(&socket, interface, key, mark))
            }
        }
    }
}

/// What finds or makes the device.
pub(crate) enum Opener {
    Kernel(KernelOpener),
    Own(DataplaneOpener),
    Uapi(UapiDevice),
}

impl OpenDevice for Opener {
    fn inherit(&mut self, queues: Vec<OwnedFd>) {
        if let Self::Own(opener) = self {
            opener.inherit(queues);
        }
    }

    fn open(
        &mut self,
        ended: mpsc::UnboundedSender<String>,
    ) -> Result<Arc<dyn TunnelDevice>, DeviceError> {
        match self {
            Self::Kernel(opener) => opener.open(ended),
            Self::Own(opener) => opener.open(ended),
            Self::Uapi(opener) => opener.open(ended),
        }
    }
}
