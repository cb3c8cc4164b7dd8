//! The program under test, for tests that live in another package than it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

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
            let status = Command::new(cargo)
                .args(["build", "--quiet", "--package", "wireloom", "--bin", "wireloom"])
                .args(["--profile", profile(directory)])
                .arg("--target-dir")
                .arg(directory.parent().expect("a profile's directory lies in a target directory"))
                .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
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

/// `target/debug` of `target/debug/deps/test-0123`.
fn profile_directory(test: &Path) -> Option<&Path> {
    test.parent().filter(|deps| deps.ends_with("deps")).and_then(Path::parent)
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
    fn the_profile_is_told_from_the_tests_path() {
        let directory = profile_directory(Path::new("/w/target/debug/deps/tests-0123"));
        assert_eq!(directory, Some(Path::new("/w/target/debug")));
        assert_eq!(profile(Path::new("/w/target/debug")), "dev");
        assert_eq!(profile(Path::new("/w/target/release")), "release");
        assert_eq!(profile_directory(Path::new("/w/elsewhere/tests-0123")), None);
    }
}
