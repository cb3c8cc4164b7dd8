//! The programs that a lab runs, and where they come from.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};

/// A program of the system. Packages are named as in Debian and Ubuntu.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Configures links, addresses and routes (iproute2).
    Ip,
    /// Measures throughput.
    Iperf3,
    /// Sets packet filters and NAT.
    Nft,
    /// Enters namespaces (util-linux).
    Nsenter,
    /// Asks a host for an echo.
    Ping,
    /// Starts a program with a signal for its parent's death (util-linux).
    Setpriv,
    /// Shows sockets (iproute2).
    Ss,
    /// Sets queueing disciplines (iproute2).
    Tc,
}

/// Where administrators' programs lie when a shell's PATH does not list them.
const MORE_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl Program {
    /// The programs without which no lab is built.
    pub const NEEDED: [Self; 4] = [Self::Ip, Self::Nft, Self::Ping, Self::Setpriv];

    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Iperf3 => "iperf3",
            Self::Nft => "nft",
            Self::Nsenter => "nsenter",
            Self::Ping => "ping",
            Self::Setpriv => "setpriv",
            Self::Ss => "ss",
            Self::Tc => "tc",
        }
    }

    /// The package that brings it.
    pub const fn package(self) -> &'static str {
        match self {
            Self::Ip | Self::Ss | Self::Tc => "iproute2",
            Self::Iperf3 => "iperf3",
            Self::Nft => "nftables",
            Self::Nsenter | Self::Setpriv => "util-linux",
            Self::Ping => "iputils-ping",
        }
    }

    /// Its file: the first in PATH or in the administrators' directories. `None` if it is not installed.
    pub fn path(self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(MORE_DIRECTORIES.iter().map(PathBuf::from))
            .map(|directory| directory.join(self.name()))
            .find(|file| is_program(file))
    }

    /// Those of the needed programs that are not installed.
    pub fn missing() -> Vec<Self> {
        Self::NEEDED.into_iter().filter(|program| program.path().is_none()).collect()
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn is_program(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}
