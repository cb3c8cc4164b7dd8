//! One binary: every command of Wireloom.
//!
//! Floor 4: joins the agent, the data plane, the registries and the lab, and talks to people. Each command is a module
//! with its arguments and a `run`.

#[cfg(feature = "kubernetes")]
mod agent;
mod background;
mod check;
mod cleanup;
mod cli;
#[cfg(feature = "kubernetes")]
mod cluster;
mod cni;
mod completion;
#[cfg(feature = "kubernetes")]
mod connect;
mod demo;
mod device;
mod doctor;
mod down;
mod graph;
mod keys;
mod logging;
mod opener;
mod output;
mod queues;
mod showconf;
mod signals;
mod source;
mod status;
mod tunnel;
mod up;
#[cfg(feature = "kubernetes")]
mod webhook;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wireloom: {error:#}");
            ExitCode::FAILURE
        }
    }
}
