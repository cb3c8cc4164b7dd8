//! The programs that our commands call, and how they come onto a machine.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::shell::cargo;
use crate::{kernel, peers, shell};

/// What a program is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Bench,
    Count,
    Demo,
    Image,
    Kubernetes,
    Test,
}

/// A program, by its name in PATH or its whole path, the Debian package that brings it, and what we do with it.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
}

use Purpose::{Bench, Count, Demo, Image, Kubernetes, Test};

/// Everything that we call and did not build.
const NEEDS: &[Need] = &[
    need(
        "/usr/lib/cni/bridge",
        "containernetworking-plugins",
        "joins pods to their node",
        &[Kubernetes, Test],
    ),
    need("bridge", "iproute2", "shows where frames are sent", &[Test]),
    need(
        "busybox",
        "busybox-static",
        "is all there is in a virtual machine, and the shell of our image",
        &[Image, Kubernetes, Test],
    ),
    need("containerd", "containerd", "runs the pods of a cluster", &[Kubernetes, Test]),
    need("curl", "curl", "asks over HTTP", &[Test]),
    need("depmod", "kmod", "finds out which module needs which", &[Test]),
    need("dnsmasq", "dnsmasq-base", "is a name server", &[Test]),
    need("faketime", "faketime", "puts the clock of a program wrong", &[Test]),
    need("ip", "iproute2", "builds the networks and shows what is in them", &[Demo, Test, Bench]),
    need("iperf3", "iperf3", "measures throughput", &[Demo, Test, Bench]),
    need("iptables-legacy", "iptables", "makes the chains that an older Kilo leaves", &[Test]),
    need("iptables-nft", "iptables", "makes the chains that Kilo leaves", &[Test]),
    need("ldd", "libc-bin", "tells which libraries go into our image", &[Image, Kubernetes, Test]),
    need("nft", "nftables", "makes the NAT router, and is in our image", &[Demo, Image, Test]),
    need("nsenter", "util-linux", "enters a host of a network", &[Demo, Test]),
    need("openssl", "openssl", "makes a certificate as our documents do", &[Test]),
    need("ping", "iputils-ping", "proves that a pair is reachable", &[Demo, Test, Bench]),
    need("qemu-system-x86_64", "qemu-system-x86", "runs the tests' virtual machine", &[Test]),
    need("runc", "runc", "starts the containers of a cluster", &[Kubernetes, Test]),
    need("setpriv", "util-linux", "ends programs together with their host", &[Demo, Test, Bench]),
    need("ss", "iproute2", "shows who has a port", &[Test]),
    need("sysctl", "procps", "shows the settings of the kernel", &[Kubernetes, Test]),
    need("tc", "iproute2", "delays and loses packets", &[Test]),
    need("valgrind", "valgrind", "counts instructions", &[Test, Count]),
    need(
        "wg",
        "wireguard-tools",
        "drives a tunnel over its UAPI socket",
        &[Kubernetes, Test, Bench],
    ),
    need("wg-quick", "wireguard-tools", "brings a tunnel up from its configuration", &[Test]),
    need("wireguard-go", "wireguard-go", "is the other end of the interop tests", &[Test]),
];

const fn need(
    program: &'static str,
    package: &'static str,
    why: &'static str,
    purposes: &'static [Purpose],
) -> Need {
    Need { program, package, why, purposes }
}

/// Installs, fetches and builds everything that the tests need.
pub(crate) fn for_tests() -> Result<()> {
    programs(Test)?;
    kernel::fetch()?;
    peers::for_tests();
    Ok(())
}

/// Installs the programs that `purpose` needs and that are missing.
///
/// On Debian and its descendants by apt-get; elsewhere, or without root, the error names what is missing.
pub(crate) fn programs(purpose: Purpose) -> Result<()> {
    let missing = NEEDS
        .iter()
        .filter(|need| need.purposes.contains(&purpose) && shell::find(need.program).is_none())
        .map(|need| (need.package, format!("{} {}", need.program, need.why)))
        .collect();
    packages(&missing)
}

/// Installs packages by name, each with the reason that is shown.
pub(crate) fn packages(missing: &BTreeMap<&str, String>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.keys().copied().collect::<Vec<_>>().join(" ");
    let reasons = missing
        .iter()
        .map(|(package, why)| format!("  {package}: {why}"))
        .collect::<Vec<_>>()
        .join("\n");
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if !is_debian(&release) || shell::find("apt-get").is_none() {
        bail!(
            "missing on this machine, by the names of Debian's packages:\n{reasons}\n\
             install them by this distribution's own means and run the command again"
        );
    }
    let install = "apt-get install --yes --no-install-recommends";
    if !is_root() {
        bail!(
            "missing on this machine:\n{reasons}\n\
             run `sudo apt-get update && sudo {install} {names}`, or this command as root"
        );
    }
    eprintln!("installing by apt-get:\n{reasons}");
    apt_get(&["update", "--quiet"])?;
    let args: Vec<&str> = install.split(' ').skip(1).chain(missing.keys().copied()).collect();
    apt_get(&args)
}

/// Returns the program of a crate, built beside our own artefacts where that version is not there yet.
pub(crate) fn tool(package: &str, wanted: &str) -> Result<PathBuf> {
    let directory = shell::target().join("tools");
    let program = directory.join("bin").join(package);
    let version = Command::new(&program).arg("--version").output();
    let present = version
        .is_ok_and(|done| String::from_utf8_lossy(&done.stdout).trim_end().ends_with(wanted));
    if !present {
        println!("building {package} {wanted} into {} (once)", directory.display());
        // Unoptimised: it has little to do, and builds in a third of the time.
        let mut install = cargo(["install", package, "--locked", "--debug", "--force"]);
        shell::run(install.args(["--version", wanted, "--root"]).arg(&directory))?;
    }
    Ok(program)
}

/// Runs apt-get, which asks nobody.
pub(crate) fn apt_get(args: &[&str]) -> Result<()> {
    shell::run(Command::new("apt-get").args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Returns whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|of_process| of_process.uid() == 0)
}

/// Reads `/etc/os-release` (os-release(5)): is this Debian, or does it say that it descends from it?
fn is_debian(release: &str) -> bool {
    release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches('"').split(' '))
        .any(|name| matches!(name, "debian" | "ubuntu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_descendants_are_known() {
        assert!(is_debian("PRETTY_NAME=\"Debian GNU/Linux 12\"\nID=debian\n"));
        assert!(is_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=fedora\nPRETTY_NAME=\"not debian\"\n"));
        assert!(!is_debian(""));
    }

    /// A test that asks for a program which nobody installs would fail on every fresh machine.
    #[test]
    fn every_program_that_a_test_asks_for_is_installed() {
        let asked = Command::new("grep")
            .args([
                "-rhoE",
                "--include=*.rs",
                "--exclude-dir=testkit",
                "need!\\(.*program \"[^\"]+\"",
            ])
            .args(["crates", "tests", "benches"])
            .current_dir(shell::root())
            .output()
            .unwrap();
        for line in String::from_utf8(asked.stdout).unwrap().lines() {
            let program = line.split('"').nth(1).unwrap();
            let known =
                NEEDS.iter().any(|need| need.program == program && need.purposes.contains(&Test));
            assert!(
                known,
                "{line}: add {program} and its package to NEEDS in xtask/src/install.rs"
            );
        }
    }
}
