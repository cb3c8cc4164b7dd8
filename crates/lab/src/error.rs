//! What goes wrong in a lab.

use std::io;
use std::net::IpAddr;
use std::process::ExitStatus;

use crate::plan::LayoutError;
use crate::program::Program;

/// Why a lab, or something in it, did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program ended with a failure.
    #[error("{host}: {command} failed ({status}): {message}")]
    Failed {
        /// The host that it ran on.
        host: String,
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to standard error, or to standard output if that is empty.
        message: String,
    },
    /// The host's thread has ended.
    #[error("host {host} is gone: its thread has ended")]
    Gone {
        /// The host.
        host: String,
    },
    /// A system call failed.
    #[error("{host}: cannot {action}: {source}")]
    Io {
        /// The host that it concerns.
        host: String,
        /// What was tried.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The description makes no lab.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// A program is not installed.
    #[error("{0} is not installed: install the package {package}", package = .0.package())]
    Missing(Program),
    /// A name that is no host of this lab.
    #[error("the lab has no host {name:?}")]
    NoHost {
        /// The name asked for.
        name: String,
    },
    /// The caller may not make namespaces.
    #[error("a lab needs root (CAP_SYS_ADMIN): making network namespaces is not permitted here")]
    Privilege,
    /// A program took too long and was killed.
    #[error("{host}: {command} was killed after {seconds} s")]
    TimedOut {
        /// The host that it ran on.
        host: String,
        /// The program and its arguments.
        command: String,
        /// The time that it had.
        seconds: u64,
    },
    /// A measurement found no way, or no end.
    #[error("{host}: no throughput to {address} was measured: {reason}")]
    Unmeasured {
        /// The host that it ran on.
        host: String,
        /// The other end.
        address: IpAddr,
        /// What the program said.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(host: &str, action: impl Into<String>, source: io::Error) -> Self {
        Self::Io { host: host.to_owned(), action: action.into(), source }
    }
}
