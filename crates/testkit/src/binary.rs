//! The program under test, for tests that live in another package than it, and the programs of a cluster.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// The root of the checkout.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The path of the `wireloom` program, built in the profile and target directory of the running test.
///
/// Cargo tells a test only the programs of its own package, so the first call in a process runs `cargo build` itself,
/// which does nothing when the program is up to date.
///
/// # Panics
///
/// If the test does not run from a cargo target directory, or the program does not build.
#[expect(clippy::expect_used, reason = "a test's helper: its failure is the test's failure")]
pub fn wireloom_binary() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let test = env::current_exe().expect("the path of the running test");
            let directory = profile_directory(&test).expect("a test runs from TARGET/PROFILE/deps");
            let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
            let mut build = Command::new(cargo);
            // What cargo told this test of its own package is news to build scripts, which would all run again.
            for (name, _) in env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
                build.env_remove(name);
            }
            let status = build
                .args(["build", "--quiet", "--package", "wireloom", "--bin", "wireloom"])
                .args(["--profile", profile(directory)])
                .arg("--target-dir")
                .arg(directory.parent().expect("a profile's directory lies in a target directory"))
                .current_dir(CHECKOUT)
                .status();
            let program = directory.join("wireloom");
            assert!(
                status.as_ref().is_ok_and(|status| status.success()) && program.is_file(),
                "{} is not there and does not build ({status:?}); see: cargo build -p wireloom",
                program.display()
            );
            program
        })
        .clone()
}

/// The path of a program of Kubernetes or etcd, as `cargo xtask cluster build` builds it into the target directory of the
/// running test; see [`need!`](crate::need) for whether it is there.
pub fn cluster_program(name: &str) -> PathBuf {
    let test = env::current_exe().ok();
    let target = test.as_deref().and_then(target_directory);
    let target = target.map_or_else(|| Path::new(CHECKOUT).join("target"), Path::to_path_buf);
    target.join("cluster/bin").join(name)
}

/// Whether the programs were built from the versions that the checkout asks for.
pub(crate) fn has_cluster_programs() -> bool {
    ["go.mod", "go.sum"].into_iter().all(|file| {
        let wanted = fs::read(Path::new(CHECKOUT).join("tests/cluster").join(file));
        let built = fs::read(cluster_program(file));
        matches!((wanted, built), (Ok(wanted), Ok(built)) if wanted == built)
    })
}

/// Whether cargo sets a variable for each package.
fn is_of_a_package(variable: &OsStr) -> bool {
    let name = variable.as_encoded_bytes();
    name.starts_with(b"CARGO_PKG_") || name.starts_with(b"CARGO_MANIFEST_")
}

/// `target/debug` of `target/debug/deps/test-0123`, and of a program `target/debug/demo`.
fn profile_directory(program: &Path) -> Option<&Path> {
    let directory = program.parent()?;
    if directory.ends_with("deps") {
        return directory.parent();
    }
    ["debug", "release"].iter().any(|profile| directory.ends_with(profile)).then_some(directory)
}

/// `target` of `target/debug/deps/test-0123`.
pub(crate) fn target_directory(test: &Path) -> Option<&Path> {
    profile_directory(test).and_then(Path::parent)
}

/// The name of the profile that builds into this directory: cargo calls `dev`'s `debug`.
fn profile(directory: &Path) -> &str {
    match directory.file_name().and_then(|name| name.to_str()) {
        None | Some("debug") => "dev",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_of_the_tests_package_is_known() {
        assert!(is_of_a_package(OsStr::new("CARGO_PKG_NAME")));
        assert!(is_of_a_package(OsStr::new("CARGO_MANIFEST_DIR")));
        assert!(!is_of_a_package(OsStr::new("CARGO_TARGET_DIR")));
    }

    #[test]
    fn the_profile_is_told_from_the_tests_path() {
        let directory = profile_directory(Path::new("/w/target/debug/deps/tests-0123"));
        assert_eq!(directory, Some(Path::new("/w/target/debug")));
        let test = Path::new("/w/target/debug/deps/tests-0123");
        assert_eq!(target_directory(test), Some(Path::new("/w/target")));
        assert_eq!(profile(Path::new("/w/target/debug")), "dev");
        assert_eq!(profile(Path::new("/w/target/release")), "release");
        assert_eq!(profile_directory(Path::new("/w/elsewhere/tests-0123")), None);
        let program = profile_directory(Path::new("/w/target/release/demo"));
        assert_eq!(program, Some(Path::new("/w/target/release")));
    }
}
