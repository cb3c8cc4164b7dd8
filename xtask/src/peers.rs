//! Programs of others that ours is measured beside or tested with, the newest of each: implementations of WireGuard, and
//! the reference for what calls CNI plugins.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::go::go;
use crate::shell;

/// wireguard-go's module; the program that it builds is called `wireguard`.
const WIREGUARD_GO: &str = "golang.zx2c4.com/wireguard@latest";

/// The reference for a runtime that calls CNI plugins.
const CNITOOL: &str = "github.com/containernetworking/cni/cnitool@latest";

/// Peers from the crate registry: our name for them, the package, and its program.
const CRATES: [(&str, &str, &str); 2] =
    [("boringtun", "boringtun-cli", "boringtun-cli"), ("gotatun", "gotatun-cli", "gotatun")];

/// How long the build of one may take.
const BUILD_LIMIT: &str = "30m";

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

/// Builds all of them for the tests. One that fails is told of, and the rest goes on: its own tests say what is missing.
pub(crate) fn for_tests() {
    let told = |name: &str, error: anyhow::Error| {
        eprintln!("{name} is not new, or not there at all: {error:#}");
    };
    if let Err(error) = wireguard_go() {
        told("wireguard-go", error);
    }
    if let Err(error) = from_go(CNITOOL, "cnitool") {
        told("cnitool", error);
    }
    for (name, package, program) in CRATES {
        if let Err(error) = from_crate(package, program) {
            told(name, error);
        }
    }
}

/// Where they are built; programs lie in its `bin`.
fn place() -> PathBuf {
    shell::target().join("peers")
}

/// Builds the newest wireguard-go.
fn wireguard_go() -> Result<Peer> {
    Ok(("wireguard-go", from_go(WIREGUARD_GO, "wireguard")?))
}

/// Builds a Go module's program.
fn from_go(module: &str, program: &str) -> Result<PathBuf> {
    let peers = place();
    let go = go()?;
    eprintln!("building {module} by {}", go.display());
    let mut install = Command::new("timeout");
    install.args([BUILD_LIMIT.as_ref(), go.as_os_str()]).args(["install", module]);
    shell::run(install.env("GOBIN", peers.join("bin")))?;
    let program = peers.join("bin").join(program);
    let built = shell::output(Command::new(&go).args(["version", "-m"]).arg(&program))?;
    if let Some(module) = built.lines().map(str::trim).find(|line| line.starts_with("mod")) {
        eprintln!("built {module}");
    }
    Ok(program)
}

fn from_crate(package: &str, program: &str) -> Result<PathBuf> {
    let peers = place();
    eprintln!("building the newest {package}");
    let mut install = Command::new("timeout");
    install.arg(BUILD_LIMIT).arg(shell::cargo_program());
    install.args(["install", "--locked", package, "--root"]).arg(&peers);
    shell::run(install.current_dir(shell::root()))?;
    Ok(peers.join("bin").join(program))
}
