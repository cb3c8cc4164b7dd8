//! Other implementations of WireGuard, the newest of each: measured beside ours, and the other end of its interop tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::go::go;
use crate::shell::{self, cargo};

/// wireguard-go's module; the program that it builds is called `wireguard`.
const WIREGUARD_GO: &str = "golang.zx2c4.com/wireguard@latest";

/// Peers from the crate registry: our name for them, the package, and its program.
const CRATES: [(&str, &str, &str); 2] =
    [("boringtun", "boringtun-cli", "boringtun-cli"), ("gotatun", "gotatun-cli", "gotatun")];

/// A peer's name, and where its program lies.
pub(crate) type Peer = (&'static str, PathBuf);

/// Builds all of them.
pub(crate) fn all() -> Result<Vec<Peer>> {
    let mut peers = vec![wireguard_go()?];
    for (name, package, program) in CRATES {
        peers.push((name, from_crate(package, program)?));
    }
    Ok(peers)
}

/// Where they are built; programs lie in its `bin`.
fn place() -> PathBuf {
    shell::target().join("peers")
}

/// Builds the newest wireguard-go.
fn wireguard_go() -> Result<Peer> {
    let peers = place();
    let go = go()?;
    eprintln!("building {WIREGUARD_GO} by {}", go.display());
    shell::run(Command::new(&go).args(["install", WIREGUARD_GO]).env("GOBIN", peers.join("bin")))?;
    let program = peers.join("bin/wireguard");
    let built = shell::output(Command::new(&go).args(["version", "-m"]).arg(&program))?;
    if let Some(module) = built.lines().map(str::trim).find(|line| line.starts_with("mod")) {
        eprintln!("built {module}");
    }
    Ok(("wireguard-go", program))
}

fn from_crate(package: &str, program: &str) -> Result<PathBuf> {
    let peers = place();
    eprintln!("building the newest {package}");
    let mut install = cargo(["install", "--locked", package, "--root"]);
    shell::run(install.arg(&peers))?;
    Ok(peers.join("bin").join(program))
}
