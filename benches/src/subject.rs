//! What can be measured: a userspace WireGuard device, or no tunnel at all.

use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;

/// The name of a [`Subject`] that is a plain link without a tunnel.
pub const NONE: &str = "none";

/// The name of our own tunnel.
pub const OURS: &str = "wireloom";

/// The arguments that keep each device that we know in the foreground, before or after the interface's name.
const ARGUMENTS: [(&str, &[&str], &[&str]); 8] = [
    ("boringtun", &["--foreground", "--disable-drop-privileges"], &[]),
    ("gotatun", &["--foreground", "--disable-drop-privileges"], &[]),
    ("wireguard-go", &["-f"], &[]),
    (OURS, &["tunnel"], &["-f"]),
    ("wireloom-boringtun", &["tunnel", "--engine", "boringtun"], &["-f"]),
    ("wireloom-noise", &["tunnel", "--engine", "noise"], &["-f"]),
    ("wireloom-queues-2", &["tunnel", "--queues", "2"], &["-f"]),
    ("wireloom-queues-4", &["tunnel", "--queues", "4"], &["-f"]),
];

/// One thing to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    name: &'static str,
    /// `None` for the plain link.
    program: Option<PathBuf>,
}

impl Subject {
    /// The plain link.
    pub const fn plain() -> Self {
        Self { name: NONE, program: None }
    }

    /// Its name in reports.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// What its program says of its version, in one line.
    pub fn version(&self) -> String {
        let said =
            self.program.as_ref().map(|program| Command::new(program).arg("--version").output());
        let said = said
            .and_then(Result::ok)
            .map(|done| String::from_utf8_lossy(&done.stdout).into_owned());
        let line =
            said.as_deref().and_then(|said| said.lines().find(|line| !line.trim().is_empty()));
        line.unwrap_or("a version that it does not tell").trim().to_owned()
    }

    /// The program and arguments that run its device called `interface` in the foreground. `None` for the plain link.
    pub fn command<'a>(&'a self, interface: &'a str) -> Option<(&'a PathBuf, Vec<&'a str>)> {
        let (_, before, after) = ARGUMENTS.iter().find(|(name, ..)| *name == self.name)?;
        Some((self.program.as_ref()?, [*before, &[interface], *after].concat()))
    }
}

impl FromStr for Subject {
    type Err = String;

    /// Reads `NAME=PATH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let known = || ARGUMENTS.map(|(name, ..)| name).join(", ");
        let (name, path) = text
            .split_once('=')
            .ok_or_else(|| format!("\"{text}\" is not NAME=PATH with a NAME of {}", known()))?;
        let (name, ..) = ARGUMENTS
            .iter()
            .find(|(known, ..)| *known == name)
            .ok_or_else(|| format!("\"{name}\" is no device that we know: {}", known()))?;
        Ok(Self { name, program: Some(path.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_read_with_its_program() {
        let ours: Subject = "wireloom=/w/target/release/wireloom".parse().unwrap();
        let (program, args) = ours.command("wg0").unwrap();
        assert_eq!(program, &PathBuf::from("/w/target/release/wireloom"));
        assert_eq!(args, ["tunnel", "wg0", "-f"]);
        assert!(Subject::plain().command("wg0").is_none());
    }

    #[test]
    fn a_program_tells_its_version_or_not() {
        let at = |path: &str| format!("{OURS}={path}").parse::<Subject>().unwrap();
        assert!(at("/usr/bin/env").version().starts_with("env "));
        assert_eq!(at("/nowhere").version(), "a version that it does not tell");
    }

    #[test]
    fn an_unknown_device_is_named() {
        assert!("wireloom".parse::<Subject>().unwrap_err().contains("\"wireloom\""));
        assert!("other=/bin/true".parse::<Subject>().unwrap_err().contains("\"other\""));
    }
}
