//! `wireloom demo`: a mesh of four regions on this machine, in network namespaces.
//!
//! The namespaces have no names and the nodes' files lie in memory that belongs to them, so there is nothing to clean
//! up: however this process ends, all of it is gone. A demo that is kept is held by a process of its own.

mod keep;
mod mesh;
mod reach;
mod show;
mod story;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use wireloom_model::{EncapsulateBy, EncapsulateWhen, Encapsulation, GatewayCount};

use crate::output::OutputArg;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    show: ShowArgs,
    /// Leave the mesh up, to be entered by `wireloom demo exec` until `wireloom demo down`.
    #[arg(long)]
    keep: bool,
}

// What a demo shows. No doc comment: clap would print it as the command's own.
#[derive(Debug, Clone, Args)]
struct ShowArgs {
    /// How many gateways each location has: a number from 1, or all.
    #[arg(long, default_value = "1", value_name = "N|all")]
    gateways: GatewayCount,
    /// Between which nodes of a location packets are wrapped: never, crosssubnet or always. A location of the demo is
    /// one subnet.
    #[arg(long, default_value = "never", value_name = "WHEN")]
    encapsulation: EncapsulateWhen,
    /// What they are wrapped in: vxlan, ipip or wireguard.
    #[arg(long, default_value = "vxlan", value_name = "KIND")]
    encapsulate_by: EncapsulateBy,
    /// How long each measurement of throughput takes, in seconds; 0 leaves them out.
    #[arg(long, default_value_t = 2, value_name = "N")]
    seconds: u32,
    #[command(flatten)]
    output: OutputArg,
}

impl ShowArgs {
    const fn encapsulation(&self) -> Encapsulation {
        Encapsulation { when: self.encapsulation, by: self.encapsulate_by }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take down the demo that was kept.
    Down,
    /// Run a command on a node of the demo that was kept.
    Exec {
        /// A node, such as ams-1; its pod, ams-1-pod; a region, or internet.
        node: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Be the process that holds a kept demo.
    #[command(hide = true)]
    Hold(ShowArgs),
}

pub(crate) fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        Some(Command::Down) => keep::down(),
        Some(Command::Exec { node, command }) => keep::exec(&node, &command),
        Some(Command::Hold(show)) => keep::hold(&show),
        None if args.keep => keep::start(&args.show),
        None => {
            keep::refuse_second()?;
            let (_mesh, code) = show::show(&args.show)?;
            Ok(code)
        }
    }
}
