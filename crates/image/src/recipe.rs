//! What lies in Wireloom's image.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::image::Image;
use crate::layer::Layer;

/// The directories of programs that only root has in its PATH.
const SYSTEM_DIRECTORIES: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Builds the image around a `wireloom` program: a shell to look around with, `nft` for what the clean-up reads, the
/// libraries of both, and above them the program.
///
/// `cni` is the directory of CNI plugins, where the image shall carry those that Kilo's carries: `bridge`,
/// `host-local`, `loopback` and `portmap`.
///
/// # Errors
///
/// A program that is not on this machine, or can't be read.
pub fn wireloom(
    reference: &str,
    version: &str,
    program: &Path,
    cni: Option<&Path>,
) -> Result<Image, Error> {
    let mut base = system()?.program("/usr/sbin/nft", &find("nft", "nftables")?)?;
    for plugin in ["bridge", "host-local", "loopback", "portmap"] {
        if let Some(directory) = cni {
            base = base.program(format!("/opt/cni/bin/{plugin}"), &directory.join(plugin))?;
        }
    }
    let own = Layer::new()
        .program("/usr/bin/wireloom", program)?
        // As Kilo's manifests call its agent, and scripts its other program.
        .link("/usr/bin/kg", "wireloom")
        .link("/usr/bin/kgctl", "wireloom")
        .directory("/var/lib/wireloom", 0o700)
        .directory("/run/wireloom", 0o755);
    Ok(Image::new(reference)
        .layer(base)
        .layer(own)
        .entrypoint(&["/usr/bin/wireloom"])
        .label("org.opencontainers.image.title", "wireloom")
        .label("org.opencontainers.image.description", "One network over many clouds")
        .label("org.opencontainers.image.licenses", "Apache-2.0")
        .label("org.opencontainers.image.version", version))
}

/// A layer with the users, a place for temporary files, and busybox under each of its names.
///
/// # Errors
///
/// No busybox on this machine.
pub fn system() -> Result<Layer, Error> {
    let busybox = find("busybox", "busybox-static")?;
    let names = Command::new(&busybox).arg("--list").output().map_err(Error::file(&busybox))?;
    let layer = Layer::new()
        .program("/bin/busybox", &busybox)?
        .directory("/tmp", 0o1777)
        .directory("/root", 0o700)
        .text("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
        .text("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
        .text("/etc/nsswitch.conf", "hosts: files dns\n");
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let links = names.lines().filter(|&name| name != "busybox");
    Ok(links.fold(layer, |layer, name| layer.link(format!("/bin/{name}"), "busybox")))
}

/// Finds a program of this machine.
///
/// # Errors
///
/// [`Error::Missing`] with the package to install.
pub fn find(name: &'static str, package: &'static str) -> Result<PathBuf, Error> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or(Error::Missing { name, package })
}
