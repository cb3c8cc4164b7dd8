//! Where an agent's device comes from.

use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use tokio::sync::mpsc;
use wireloom_agent::device::{DeviceError, KernelOpener, OpenDevice, TunnelDevice, UapiClient};
use wireloom_dataplane::uapi_socket;
use wireloom_model::InterfaceName;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum DeviceKind {
    /// The kernel, which needs its WireGuard module.
    Kernel,
    /// This process: the device goes when the agent goes.
    #[default]
    Own,
    /// Another process, by its socket in /var/run/wireguard, such as `wireloom tunnel`: packets pass while the agent is
    /// away.
    Uapi,
}

impl DeviceArgs {
    pub(crate) fn opener(self, interface: InterfaceName) -> Opener {
        let directory = Path::new(uapi_socket::DIRECTORY);
        match self.device {
            DeviceKind::Kernel => Opener::Kernel(KernelOpener { interface }),
            DeviceKind::Own => {
                Opener::Own(DataplaneOpener::new(interface, directory.into(), self.carrier))
            }
            DeviceKind::Uapi => {
                Opener::Uapi(UapiClient::new(&uapi_socket::path(directory, interface.as_str())))
            }
        }
    }
}

/// What finds or makes the device.
pub(crate) enum Opener {
    Kernel(KernelOpener),
    Own(DataplaneOpener),
    Uapi(UapiClient),
}

impl OpenDevice for Opener {
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
