//! Hosts joined by links, and tunnels between them.

mod behind;
mod end;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wireloom_lab::host::Namespace;
use wireloom_lab::{Child, measure};

use crate::iperf::Way;
use crate::proc;
use crate::subject::Subject;

pub use behind::{Pods, Vxlan};
pub use end::End;

/// The tunnel's interface on every host.
const INTERFACE: &str = "wg0";

/// The MTU that `wg-quick` gives a tunnel over a link of 1500 bytes.
const TUNNEL_MTU: u32 = 1420;

/// How long a tunnel may take to carry its first packet.
const START: Duration = Duration::from_secs(10);

/// What a rig consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    /// The hosts that send to the one that receives, at most 200.
    pub senders: u8,
    /// The peers that every device has besides, and that never say a word.
    pub idle_peers: u32,
}

impl Shape {
    /// Two hosts.
    pub const PAIR: Self = Self { senders: 1, idle_peers: 0 };
}

/// Hosts and what stands between them. Dropping it leaves nothing.
#[derive(Debug)]
pub struct Rig {
    /// Where the load comes from.
    pub senders: Vec<End>,
    /// Where it goes to.
    pub receiver: End,
    tunnels: bool,
}

impl Rig {
    /// Builds the rig and waits until packets pass from each sender.
    ///
    /// # Errors
    ///
    /// What the lab or the subject's program says, or that no packet passed in time.
    pub fn start(subject: &Subject, shape: Shape) -> Result<Self> {
        let senders = (1..=shape.senders).map(|number| End::start("sender", number));
        let mut rig = Self {
            senders: senders.collect::<Result<_>>()?,
            receiver: End::start("receiver", 0)?,
            tunnels: subject.command(INTERFACE).is_some(),
        };
        for sender in &rig.senders {
            join(sender, &rig.receiver)?;
        }
        if rig.tunnels {
            let (senders, receiver) = (&mut rig.senders, &mut rig.receiver);
            receiver.start_tunnel(subject)?;
            for sender in &mut *senders {
                sender.start_tunnel(subject)?;
                sender.configure(&[receiver], shape.idle_peers)?;
            }
            receiver.configure(&senders.iter().collect::<Vec<_>>(), shape.idle_peers)?;
        }
        for way in rig.ways() {
            await_packet(way).with_context(|| format!("through {}", subject.name()))?;
        }
        Ok(rig)
    }

    /// The way from each sender to the receiver.
    pub fn ways(&self) -> Vec<Way<'_>> {
        let Self { senders, receiver, tunnels } = self;
        let ways = senders.iter().map(|sender| {
            let address = if *tunnels { &receiver.inner } else { &sender.far };
            Way { from: &sender.host, to: &receiver.host, address }
        });
        ways.collect()
    }

    /// The processes of the tunnel's devices; none without a tunnel.
    pub fn devices(&self) -> impl Iterator<Item = u32> {
        let ends = self.senders.iter().chain([&self.receiver]);
        ends.filter_map(|end| end.device.as_ref()).map(Child::id)
    }

    /// What every device answers, and of these the largest; `None` without a tunnel.
    ///
    /// # Errors
    ///
    /// If a device is gone.
    pub fn largest(&self, of: impl Fn(u32) -> Result<f64>) -> Result<Option<f64>> {
        let values: Vec<f64> = self.devices().map(of).collect::<Result<_>>()?;
        Ok(values.into_iter().reduce(f64::max))
    }

    /// The largest resident memory that any device ever had, in megabytes of 1,000,000 bytes. `None` without a tunnel.
    ///
    /// # Errors
    ///
    /// If a device is gone.
    pub fn peak_memory(&self) -> Result<Option<f64>> {
        self.largest(proc::peak_memory)
    }

    /// Fails if a device has ended, with what it said.
    ///
    /// # Errors
    ///
    /// What it said.
    pub fn check(&mut self) -> Result<()> {
        self.senders.iter_mut().chain([&mut self.receiver]).try_for_each(End::check)
    }
}

/// Joins a sender to the receiver by a link of their own.
fn join(sender: &End, receiver: &End) -> Result<()> {
    let namespace = receiver.host.namespace(Namespace::Network);
    let (number, namespace) = (sender.number, namespace.to_string_lossy());
    let far = format!("veth{number}");
    sender.ip(&format!("link add veth0 type veth peer name {far} netns {namespace}"))?;
    sender.ip(&format!("address add {}/24 dev veth0", sender.near))?;
    receiver.ip(&format!("address add {}/24 dev {far}", sender.far))?;
    sender.ip("link set veth0 up")?;
    receiver.ip(&format!("link set {far} up"))
}

/// Waits until a packet passes.
fn await_packet(way: Way<'_>) -> Result<()> {
    let to = way.address.parse().context("an address of the rig")?;
    if measure::ping(way.from, to, Instant::now() + START)?.is_none() {
        bail!("no packet passed to {to} within {} s", START.as_secs());
    }
    Ok(())
}
