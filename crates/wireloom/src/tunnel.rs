//! `wireloom tunnel`: a userspace WireGuard device without a mesh, driven by wg and wg-quick.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use wireloom_dataplane::{Ended, uapi_socket};
use wireloom_io::inherited;
use wireloom_model::InterfaceName;

use crate::background::{self, Background, Role};
use crate::device::{CarrierArgs, LocalDevice, Parts};
use crate::signals;

#[derive(Debug, Args)]
pub(crate) struct TunnelArgs {
    /// The name of the device.
    interface: InterfaceName,
    /// Stay in front and log to standard error.
    #[arg(short, long)]
    foreground: bool,
    /// Where the device's UAPI socket is made.
    #[arg(long, env = "WIRELOOM_UAPI_DIR", default_value = uapi_socket::DIRECTORY, value_name = "DIR")]
    uapi_dir: PathBuf,
    /// Take over this descriptor of an open TUN device, and so one queue, instead of making one.
    #[arg(long, env = "WG_TUN_FD", value_name = "FD")]
    tun_fd: Option<i32>,
    /// Take over this descriptor of a listening UAPI socket instead of making one.
    #[arg(long, env = "WG_UAPI_FD", value_name = "FD")]
    uapi_fd: Option<i32>,
    #[command(flatten)]
    carrier: CarrierArgs,
}

pub(crate) fn run(args: TunnelArgs) -> anyhow::Result<ExitCode> {
    let background = match background::split(args.foreground || is_kept_in_front())? {
        Role::Called(code) => return Ok(code),
        Role::Front => None,
        Role::Stays(background) => Some(background),
    };
    let handed_down = |number: i32| {
        inherited::descriptor(number).with_context(|| format!("TUN descriptor {number}"))
    };
    let parts = Parts {
        interface: args.interface.clone(),
        uapi_directory: args.uapi_dir,
        uapi: args.uapi_fd,
        carrier: args.carrier,
    };
    let queue = args.tun_fd.map(handed_down).transpose()?;
    let device = LocalDevice::open(&parts, queue.into_iter().collect())?;
    let dataplane = device.dataplane();
    let (engine, queues) = (dataplane.engine(), dataplane.queues());
    tracing::info!(interface = %args.interface, %engine, queues, "the device is up");
    background.map(Background::ready).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the thread that waits for signals")?;
    let ended = runtime.block_on(async {
        tokio::select! {
            () = signals::stop()? => anyhow::Ok(Ended::Stopped),
            ended = tokio::task::spawn_blocking(move || dataplane.wait()) => {
                ended.context("wait for the device")
            }
        }
    });
    // Stops the device, and so the thread that waits for it.
    drop(device);
    match ended? {
        ended @ Ended::Failed { .. } => anyhow::bail!("{ended}"),
        ended => {
            tracing::info!(%ended, "the device is gone");
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// wireguard-go stays in front when this is set, so whoever sets it for a device expects it of us.
fn is_kept_in_front() -> bool {
    std::env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1")
}
