//! What a test needs of its machine.

use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fmt, fs};

use crate::binary::{has_cluster_programs, target_directory};

/// Something that a test needs of its machine; see [`need!`](crate::need).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// A program that `cargo xtask install` or `cargo xtask cluster build` builds, by its path below the target
    /// directory; see [`built`].
    Built(&'a str),
    /// The programs of a Kubernetes cluster, built by `cargo xtask cluster build`.
    Cluster,
    /// A device node that this process may open for reading and writing.
    Device(&'a str),
    /// A program in `PATH`.
    Program(&'a str),
    /// The rights to make namespaces and links: `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`, which root has unless a container
    /// took them away.
    Root,
    /// What a [`Vm`](crate::Vm) is made of: qemu, busybox, and a kernel.
    Vm,
}

impl Need<'_> {
    /// Whether the machine has it. Says on standard output that the test is skipped if not.
    ///
    /// # Panics
    ///
    /// If the machine lacks it and the environment says `CI=true`.
    pub fn met_for(self, test: &str) -> bool {
        if self.is_met() {
            return true;
        }
        let ci = env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!ci, "CI=true, yet {self} is missing, which {test} needs");
        println!("skipped: {test} needs {self}");
        false
    }

    fn is_met(self) -> bool {
        match self {
            Self::Built(path) => is_program(&built(path)),
            Self::Cluster => has_cluster_programs(),
            Self::Device(path) => OpenOptions::new().read(true).write(true).open(path).is_ok(),
            Self::Program(name) => find_program(name).is_some(),
            Self::Root => fs::read_to_string("/proc/self/status").is_ok_and(|s| may_administer(&s)),
            Self::Vm => crate::vm::is_possible(),
        }
    }
}

impl fmt::Display for Need<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built(path) => {
                let commands = "`cargo xtask install` or `cargo xtask cluster build` builds it";
                write!(f, "{} ({commands})", built(path).display())
            }
            Self::Cluster => {
                f.write_str("the programs of a cluster (built by `cargo xtask cluster build`)")
            }
            Self::Device(path) => write!(f, "the device {path}"),
            Self::Program(name) => write!(f, "the program {name}"),
            Self::Root => f.write_str("root (CAP_NET_ADMIN and CAP_SYS_ADMIN)"),
            Self::Vm => f.write_str("a virtual machine (`cargo xtask install` fetches its parts)"),
        }
    }
}

/// A path below the target directory of the running test.
pub fn built(path: impl AsRef<Path>) -> PathBuf {
    let test = env::current_exe().unwrap_or_default();
    target_directory(&test).unwrap_or_else(|| Path::new("target")).join(path)
}

/// The file of a program: the first of its name in `PATH`, or what the path names.
pub(crate) fn find_program(program: impl AsRef<Path>) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Joined to an absolute path, a directory is gone.
    env::split_paths(&path).map(|dir| dir.join(&program)).find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Whether a `/proc/PID/status` (proc_pid_status(5)) has both capabilities in effect.
fn may_administer(status: &str) -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|held| held & (NET_ADMIN | SYS_ADMIN) == NET_ADMIN | SYS_ADMIN)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn programs_and_devices_are_looked_for() {
        assert!(Need::Program("sh").is_met());
        assert!(!Need::Program("no-such-program").is_met());
        assert!(Need::Device("/dev/null").is_met());
        assert!(!Need::Device("/dev/no-such-device").is_met());
    }

    #[test]
    fn root_means_both_capabilities() {
        assert!(may_administer("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_administer("Name:\tx\nCapEff:\t00000000a80425fb\n"));
        assert!(!may_administer("CapEff:\t0000000000001000\n"));
        assert!(!may_administer(""));
    }

    #[test]
    fn a_test_goes_on_where_nothing_lacks() {
        let mut went_on = false;
        let mut test = || {
            crate::need!(program "sh");
            went_on = true;
        };
        test();
        assert!(went_on);
    }

    #[test]
    #[ignore = "run by the test below, in a process of its own"]
    fn lacking() {
        crate::need!(program "no-such-program");
        panic!("the test went on");
    }

    #[test]
    fn a_lack_is_a_failure_under_ci_and_else_a_skip() {
        let lack = "no-such-program";
        for (ci, passes, said) in [
            ("true", false, format!("CI=true, yet the program {lack} is missing")),
            ("", true, format!("lacking needs the program {lack}")),
        ] {
            let output = Command::new(env::current_exe().unwrap())
                .args(["--ignored", "--exact", "need::tests::lacking", "--nocapture"])
                .env("CI", ci)
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            let text = String::from_utf8_lossy(&text);
            assert_eq!(output.status.success(), passes, "{text}");
            assert!(text.contains(&said) && !text.contains("the test went on"), "{text}");
            assert_eq!(text.contains("skipped: wireloom_testkit::need::tests::"), passes, "{text}");
        }
    }
}
