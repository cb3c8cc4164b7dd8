//! The kernel of the tests' virtual machine: Debian's, built for clouds, which has modules that the machine below may
//! lack.
//!
//! Only files of its package are taken; nothing is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::install;
use crate::shell;

/// The package that always depends on the newest kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The modules to take, below `lib/modules/VERSION/kernel`: networks, what they call, and the virtual devices.
const MODULES: &[&str] = &[
    "arch/x86/crypto",
    "crypto",
    "drivers/char",
    "drivers/net",
    "drivers/virtio",
    "lib",
    "net/802",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/llc",
    "net/netfilter",
    "net/sched",
];

/// The lists beside them, from which depmod knows what is built in and in which order to look.
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// Fetches the kernel and its modules into `target/vm`, once.
///
/// Elsewhere than on Debian and its descendants for amd64 it says so and goes on; the tests that need it say more.
pub(crate) fn fetch() -> Result<()> {
    let place = shell::target().join("vm");
    let kernel = place.join("vmlinuz");
    if kernel.is_file() {
        return Ok(());
    }
    if !cfg!(target_arch = "x86_64") || shell::find("apt-get").is_none() {
        eprintln!("no virtual machine for tests: its kernel comes from Debian for amd64");
        return Ok(());
    }
    let unpacked = place.join("unpacked");
    fs::create_dir_all(&unpacked)?;
    let package = match newest()? {
        Some(package) => package,
        None => {
            install::apt_get(&["update", "--quiet"])?;
            newest()?.with_context(|| format!("apt knows no package {PACKAGE}"))?
        }
    };
    eprintln!("fetching {package} for the tests' virtual machine (its files only)");
    // Only root may become the user as whom apt fetches, and that one may not write here.
    let mut download = Command::new("apt-get");
    download.args(["download", "--quiet", "--option=APT::Sandbox::User=root", &package]);
    shell::run(download.current_dir(&place))?;
    let archive = file_in(&place, |name| name.starts_with(&package) && name.ends_with(".deb"))?;
    shell::run(Command::new("dpkg-deb").arg("--extract").args([&archive, &unpacked]))?;
    let modules = unpacked.join("lib/modules");
    let version = file_in(&modules, |_| true)?;
    let version = version.file_name().unwrap_or_default();
    let (from, to) = (modules.join(version), place.join("lib/modules").join(version));
    for directory in MODULES {
        copy_tree(&from.join("kernel").join(directory), &to.join("kernel").join(directory))?;
    }
    for list in LISTS {
        fs::copy(from.join(list), to.join(list)).with_context(|| format!("no {list}"))?;
    }
    shell::run(Command::new("depmod").arg("--basedir").arg(&place).arg(version))?;
    let image = file_in(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    // Last of all: it tells that the rest is there.
    fs::rename(image, kernel)?;
    fs::remove_dir_all(unpacked)?;
    fs::remove_file(archive)?;
    Ok(())
}

/// Returns the package of the newest kernel. `None` where apt has no lists yet.
fn newest() -> Result<Option<String>> {
    let depends = Command::new("apt-cache").args(["depends", PACKAGE]).output()?;
    Ok(dependency(&String::from_utf8_lossy(&depends.stdout)))
}

/// Reads `  Depends: linux-image-6.1.0-56-cloud-amd64`.
fn dependency(text: &str) -> Option<String> {
    text.lines().find_map(|line| Some(line.trim().strip_prefix("Depends: ")?.to_owned()))
}

fn file_in(directory: &Path, wanted: impl Fn(&str) -> bool) -> Result<std::path::PathBuf> {
    let found = fs::read_dir(directory)
        .with_context(|| format!("no {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| wanted(&name.to_string_lossy())));
    found
        .with_context(|| format!("the kernel's package has another shape: {}", directory.display()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("no modules {}", from.display()))?;
    fs::create_dir_all(to)?;
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_what_the_package_depends_on() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(dependency(text).unwrap(), "linux-image-6.1.0-56-cloud-amd64");
        assert_eq!(dependency(""), None);
    }
}
