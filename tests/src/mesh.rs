//! A mesh of two machines, each a location of its own.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use wireloom_lab::{Child, Host};

use crate::{Keys, Pair, eventually, ok, run, wireloom};

/// A mesh of the two hosts of a [`Pair`], with its files in a folder of its own.
pub struct Mesh {
    /// The hosts, which are the nodes a and b.
    pub pair: Pair,
    /// Their keys.
    pub keys: [Keys; 2],
    /// Where the mesh file is, and the private keys, each named after its node.
    pub folder: tempfile::TempDir,
}

/// The overlay addresses of a and of b.
pub const OVERLAY: [[&str; 2]; 2] = [["10.4.0.1", "fd04::1"], ["10.4.0.2", "fd04::2"]];

impl Mesh {
    /// Starts the hosts and writes the files.
    pub fn new() -> Self {
        Self::of(Pair::start())
    }

    /// Writes the files for hosts that are there.
    pub fn of(pair: Pair) -> Self {
        let mesh =
            Self { pair, keys: [Keys::new(), Keys::new()], folder: tempfile::tempdir().unwrap() };
        for (name, keys) in ["a", "b"].into_iter().zip(&mesh.keys) {
            let file = mesh.folder.path().join(name);
            fs::write(&file, &keys.private).unwrap();
            ok(&mesh.pair.a, &format!("chmod 600 {}", file.display()));
        }
        mesh.write(&mesh.text("", ""));
        mesh
    }

    /// The path of the mesh file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mesh.toml")
    }

    /// The mesh file, with more lines for the entries of a and b.
    pub fn text(&self, more_a: &str, more_b: &str) -> String {
        let mut text = "[mesh]\noverlay = [\"10.4.0.0/24\", \"fd04::/64\"]\n".to_owned();
        for (number, more) in [more_a, more_b].into_iter().enumerate() {
            text += &format!(
                "[[node]]\nname = \"{}\"\npublic-key = \"{}\"\noverlay-addresses = {:?}\n{more}\n",
                ["a", "b"][number],
                self.keys[number].public,
                OVERLAY[number],
            );
            if !more.contains("endpoint") {
                text += &format!("endpoint = \"192.0.2.{}:51820\"\n", number + 1);
            }
        }
        text
    }

    /// Puts a text in the place of the mesh file, in one step.
    pub fn write(&self, text: &str) {
        let beside = self.folder.path().join("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.path()).unwrap();
    }

    /// The arguments by which a command knows the mesh and the node.
    pub fn args(&self, name: &str) -> String {
        let key = self.folder.path().join(name);
        format!("-c {} --key {}", self.path().display(), key.display())
    }

    /// Starts a node's agent and waits until it is in the mesh, or says that something is wrong.
    pub fn up(&self, name: &str) -> Child {
        self.up_with(name, "")
    }

    /// The same, with more arguments for `wireloom up`.
    pub fn up_with(&self, name: &str, more: &str) -> Child {
        let host = self.host(name);
        let child = wireloom(host, &format!("up {} {more}", self.args(name)));
        eventually("the node is in the mesh", || {
            let (_, log) = child.written().unwrap();
            run(host, "wireloom status -o json").status.success() && status(host)["node"] == name
                || log.contains("error")
        });
        child
    }

    /// A node's host.
    pub fn host(&self, name: &str) -> &Host {
        if name == "a" { &self.pair.a } else { &self.pair.b }
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new()
    }
}

/// The mesh file of a and b in one location, with more lines for the mesh and for b. Their internal addresses have this
/// IPv4 prefix length; with 32 they are in different subnets, of either family.
pub fn one_location(mesh: &Mesh, more: &str, length: &str, more_b: &str) -> String {
    let long = if length == "32" { "128" } else { "64" };
    let entry = |last: u8, more: &str| {
        format!(
            "location = \"one\"\n\
             internal-addresses = [\"192.0.2.{last}/{length}\", \"2001:db8::{last}/{long}\"]\n{more}"
        )
    };
    let text = mesh.text(&entry(1, "prefixes = [\"10.71.0.0/24\"]"), &entry(2, more_b));
    text.replacen("[mesh]\n", &format!("[mesh]\n{more}\n"), 1)
}

/// What a host's agent says of itself.
pub fn status(host: &Host) -> Value {
    serde_json::from_str(&ok(host, "wireloom status -o json")).unwrap()
}

/// The routes out of a host's tunnel device, of both families.
pub fn routes(host: &Host) -> String {
    ok(host, "ip route show dev wl0") + &ok(host, "ip -6 route show dev wl0")
}
