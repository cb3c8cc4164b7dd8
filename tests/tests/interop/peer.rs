//! The implementations at the other end.

use std::path::PathBuf;

use wireloom_benches::subject::Subject;
use wireloom_testkit::built;

/// An implementation of WireGuard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// boringtun-cli.
    Boringtun,
    /// gotatun-cli.
    Gotatun,
    /// The kernel's own, in a virtual machine.
    Linux,
    /// wireguard-go.
    WireguardGo,
}

impl Peer {
    /// All of them, as in the table.
    pub(crate) const ALL: [Self; 4] =
        [Self::Linux, Self::WireguardGo, Self::Boringtun, Self::Gotatun];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Linux => "Linux",
            Self::WireguardGo => "wireguard-go",
        }
    }

    /// Where its program is built, below the target directory. `None` for the kernel.
    pub(crate) const fn program(self) -> Option<&'static str> {
        match self {
            Self::Boringtun => Some("peers/bin/boringtun-cli"),
            Self::Gotatun => Some("peers/bin/gotatun"),
            Self::Linux => None,
            Self::WireguardGo => Some("peers/bin/wireguard"),
        }
    }

    /// Whether its counters take note of messages that carry nothing.
    pub(crate) const fn counts_empty_messages(self) -> bool {
        matches!(self, Self::Linux | Self::WireguardGo)
    }

    /// Whether it says when it last shook hands. boringtun says how long ago that was.
    pub(crate) const fn dates_handshakes(self) -> bool {
        !matches!(self, Self::Boringtun)
    }

    /// The command that runs its device of this name in front. `None` for the kernel.
    pub(crate) fn command(self, link: &str) -> Option<(PathBuf, Vec<String>)> {
        let program = built(self.program()?);
        let subject: Subject = format!("{}={}", self.name(), program.display()).parse().unwrap();
        let (program, arguments) = subject.command(link)?;
        Some((program.clone(), arguments.into_iter().map(str::to_owned).collect()))
    }
}

/// One of our own engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// boringtun's.
    Boringtun,
    /// Our own.
    Noise,
}

impl Engine {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::Noise, Self::Boringtun];

    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Boringtun => "boringtun",
            Self::Noise => "noise",
        }
    }
}
