//! Two hosts joined by one link, and a tunnel between them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wireloom_lab::host::Namespace;
use wireloom_lab::{Child, Host, measure};
use wireloom_model::PrivateKey;

use crate::subject::Subject;

/// The tunnel's interface on both hosts.
const INTERFACE: &str = "wg0";

/// The link between the hosts, by the same name at both ends.
const LINK: &str = "veth0";

/// The MTU that `wg-quick` gives a tunnel over a link of 1500 bytes.
const TUNNEL_MTU: u32 = 1420;

const PORT: u16 = 51820;

/// How long a device may take to answer, and a tunnel to carry its first packet.
const START: Duration = Duration::from_secs(10);

/// How long a command of the set-up may take.
const COMMAND: Duration = Duration::from_secs(10);

/// One end of the rig.
#[derive(Debug)]
pub struct End {
    /// The machine.
    pub host: Host,
    /// The address to measure: in the tunnel, or on the link if there is none.
    pub address: String,
    /// The tunnel's process.
    pub tunnel: Option<Child>,
    key: PrivateKey,
    /// Its address on the link.
    outer: String,
    /// Its address in the tunnel.
    inner: String,
}

/// Two hosts and what stands between them. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Rig {
    /// Where the load comes from.
    pub sender: End,
    /// Where it goes to.
    pub receiver: End,
}

impl Rig {
    /// Builds the rig and waits until packets pass.
    ///
    /// # Errors
    ///
    /// What the lab or the subject's program says, or that no packet passed in time.
    pub fn start(subject: &Subject) -> Result<Self> {
        let mut rig =
            Self { sender: End::start("sender", 1)?, receiver: End::start("receiver", 2)? };
        rig.join()?;
        if subject.command(INTERFACE).is_some() {
            let (sender, receiver) = (&mut rig.sender, &mut rig.receiver);
            sender.start_tunnel(subject)?;
            receiver.start_tunnel(subject)?;
            sender.configure(receiver)?;
            receiver.configure(sender)?;
            sender.move_into_tunnel()?;
            receiver.move_into_tunnel()?;
        }
        let to = rig.receiver.address.parse().context("an address of the rig")?;
        if measure::ping(&rig.sender.host, to, Instant::now() + START)?.is_none() {
            bail!("{}: no packet passed within {} s", subject.name(), START.as_secs());
        }
        Ok(rig)
    }

    fn join(&self) -> Result<()> {
        let (sender, receiver) = (&self.sender, &self.receiver);
        let namespace = receiver.host.namespace(Namespace::Network);
        let namespace = namespace.to_string_lossy();
        sender.ip(&format!("link add {LINK} type veth peer name {LINK} netns {namespace}"))?;
        for end in [sender, receiver] {
            end.ip("link set lo up")?;
            end.ip(&format!("address add {}/24 dev {LINK}", end.outer))?;
            end.ip(&format!("link set {LINK} up"))?;
        }
        Ok(())
    }

    /// The largest resident memory that either end's tunnel ever had, in megabytes of 1,000,000 bytes. `None` without a
    /// tunnel.
    pub fn peak_memory(&self) -> Option<f64> {
        [&self.sender, &self.receiver]
            .into_iter()
            .filter_map(|end| {
                let id = end.tunnel.as_ref()?.id();
                let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
                peak_of(&status)
            })
            .reduce(f64::max)
    }
}

impl End {
    fn start(name: &str, number: u8) -> Result<Self> {
        let outer = format!("10.0.0.{number}");
        Ok(Self {
            host: Host::start(name)?,
            address: outer.clone(),
            tunnel: None,
            key: PrivateKey::from_random([number; 32]),
            outer,
            inner: format!("10.1.0.{number}"),
        })
    }

    /// Starts the device and waits until it answers on its UAPI socket.
    fn start_tunnel(&mut self, subject: &Subject) -> Result<()> {
        let Some((program, args)) = subject.command(INTERFACE) else { return Ok(()) };
        let mut device = self.host.spawn(program, args)?;
        let deadline = Instant::now() + START;
        while self.host.exec("wg", ["show", INTERFACE], COMMAND)?.status.code() != Some(0) {
            if device.has_ended()? || Instant::now() > deadline {
                let (out, err) = device.written()?;
                bail!("{} does not answer to wg: {out}{err}", subject.name());
            }
            // `wg` has no way to wait for a socket.
            thread::sleep(Duration::from_millis(50));
        }
        self.tunnel = Some(device);
        Ok(())
    }

    fn configure(&self, peer: &Self) -> Result<()> {
        let file = "/run/bench.conf";
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = {}/32\nEndpoint = {}:{PORT}\n",
            *self.key.to_text(),
            peer.key.public_key(),
            peer.inner,
            peer.outer
        );
        self.host.write(file, text)?;
        self.host.spawn("wg", ["setconf", INTERFACE, file])?.success(COMMAND)?;
        Ok(())
    }

    fn move_into_tunnel(&mut self) -> Result<()> {
        self.address.clone_from(&self.inner);
        self.ip(&format!("address add {}/24 dev {INTERFACE}", self.address))?;
        self.ip(&format!("link set {INTERFACE} mtu {TUNNEL_MTU} up"))
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        self.host.spawn("ip", arguments.split(' '))?.success(COMMAND)?;
        Ok(())
    }
}

/// Reads the high-water mark of resident memory in `/proc/PID/status` (proc_pid_status(5)).
fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_high_water_mark_is_read() {
        let status = "Name:\twireloom\nVmPeak:\t  123 kB\nVmHWM:\t   62500 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(peak_of(status), Some(64.0));
        assert_eq!(peak_of("Name:\tkthreadd\n"), None);
    }
}
