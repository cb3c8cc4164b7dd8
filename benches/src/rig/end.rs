//! One host of the rig and its tunnel.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use wireloom_lab::{Child, Host};
use wireloom_model::PrivateKey;

use super::{INTERFACE, START, TUNNEL_MTU};
use crate::subject::Subject;

const PORT: u16 = 51820;

/// How long a command of the set-up may take.
const COMMAND: Duration = Duration::from_secs(10);

/// One host of the rig and its tunnel.
#[derive(Debug)]
pub struct End {
    /// The machine.
    pub host: Host,
    /// The tunnel's process.
    pub(super) device: Option<Child>,
    /// 0 for the receiver, then one for each sender.
    pub(super) number: u8,
    /// A sender's address on its link to the receiver.
    pub(super) near: String,
    /// The receiver's address on the same link.
    pub(super) far: String,
    /// The address in the tunnel.
    pub(super) inner: String,
    key: PrivateKey,
    name: &'static str,
}

impl End {
    pub(super) fn start(role: &str, number: u8) -> Result<Self> {
        let host = Host::start(&format!("{role}{number}"))?;
        let end = Self {
            host,
            device: None,
            number,
            near: format!("10.0.{number}.1"),
            far: format!("10.0.{number}.2"),
            inner: format!("10.1.0.{}", number + 1),
            key: PrivateKey::from_random([number + 1; 32]),
            name: "",
        };
        end.ip("link set lo up")?;
        Ok(end)
    }

    /// The first three bytes of the addresses that the pods behind this host have.
    pub(super) fn pods(&self) -> String {
        format!("10.2.{}", self.number)
    }

    /// Starts the device and waits until it answers on its UAPI socket.
    pub(super) fn start_tunnel(&mut self, subject: &Subject) -> Result<()> {
        let Some((program, args)) = subject.command(INTERFACE) else { return Ok(()) };
        self.name = subject.name();
        self.device = Some(self.host.spawn(program, args)?);
        let deadline = Instant::now() + START;
        while self.host.exec("wg", ["show", INTERFACE], COMMAND)?.status.code() != Some(0) {
            self.check()?;
            if Instant::now() > deadline {
                bail!("{} does not answer to wg within {} s", self.name, START.as_secs());
            }
            // `wg` has no way to wait for a socket.
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Fails if the device has ended, with what it said.
    pub(super) fn check(&mut self) -> Result<()> {
        if let Some(device) = &mut self.device
            && device.has_ended()?
        {
            let (out, err) = device.written()?;
            bail!("{} has ended: {}", self.name, last_lines(&format!("{out}{err}")));
        }
        Ok(())
    }

    /// Gives the device its peers and brings the tunnel up.
    pub(super) fn configure(&self, peers: &[&Self], idle_peers: u32) -> Result<()> {
        let file = "/run/bench.conf";
        let mut text =
            format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n", *self.key.to_text());
        for peer in peers {
            // The receiver is reached where it is on the sender's link, a sender where it is on its own.
            let endpoint = if peer.number == 0 { &self.far } else { &peer.near };
            let allowed = format!("{}/32, {}.0/24", peer.inner, peer.pods());
            add_peer(&mut text, &peer.key, &allowed, endpoint);
        }
        for number in 0..idle_peers {
            let mut seed = [200; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            let [_, _, high, low] = number.to_be_bytes();
            let allowed = format!("10.3.{high}.{low}/32, fd00:3::{number:x}/128");
            // Nobody is there: 198.18.0.0/15 is for benchmarks (RFC 2544).
            add_peer(&mut text, &PrivateKey::from_random(seed), &allowed, "198.18.0.1");
        }
        self.host.write(file, text)?;
        self.host.spawn("wg", ["setconf", INTERFACE, file])?.success(COMMAND)?;
        self.ip(&format!("address add {}/24 dev {INTERFACE}", self.inner))?;
        self.ip(&format!("link set {INTERFACE} mtu {TUNNEL_MTU} up"))
    }

    pub(super) fn ip(&self, arguments: &str) -> Result<()> {
        ip(&self.host, arguments)
    }
}

/// Runs `ip` on a host.
pub(super) fn ip(host: &Host, arguments: &str) -> Result<()> {
    host.spawn("ip", arguments.split(' '))?.success(COMMAND)?;
    Ok(())
}

fn add_peer(text: &mut String, key: &PrivateKey, allowed: &str, endpoint: &str) {
    let key = key.public_key();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "[Peer]\nPublicKey = {key}\nAllowedIPs = {allowed}\nEndpoint = {endpoint}:{PORT}\n"
    );
}

/// The end of what a program wrote, in one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_what_a_program_wrote_is_told_in_one_line() {
        assert_eq!(last_lines("a\nb\n\n c\nd\n"), "b; c; d");
        assert_eq!(last_lines(""), "");
    }
}
