//! Looks for the largest packet that reaches each peer, while packets flow to it.
//!
//! Echoes through the tunnel find what does not arrive, whatever swallows it. Beside the tunnel goes one as large as the
//! tunnel's own packets, in one piece: a router that would cut those up says how much it takes, and the kernel tells that
//! with the way to the peer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use wireloom_model::{Family, InterfaceName, PublicKey};
use wireloom_path::{Range, Search};
use wireloom_topology::{Plan, TunnelPeer, TunnelPeerName};
use wireloom_tunnel::uapi::DeviceStatus;

use crate::echo::{Answer, EchoSockets};
use crate::paths::overhead;
use crate::quiet::Quiet;

/// How often it is looked which peers get packets.
pub(crate) const TICK: Duration = Duration::from_secs(2);

/// How many looks begin at once at most.
const AT_ONCE: usize = 32;

/// How many looks begin at once when this machine's network has changed.
const AT_ONCE_RESTARTED: usize = 256;

/// How long after a handshake a session is used (REJECT_AFTER_TIME, WireGuard paper, section 6.1).
const LIVE: Duration = Duration::from_secs(180);

/// Bytes to a peer since the last look, the echoes aside, that are no more than a keepalive or a handshake.
const QUIET: u64 = 400;

/// The identifier of echoes that are part of no search, and their size in bytes: too little to pass for a flow.
const NO_SEARCH: u16 = 0;
const SMALL: u16 = 64;

pub(crate) struct Prober {
    interface: InterfaceName,
    mark: u32,
    /// `None` until the first echo is sent to a new device.
    sockets: Option<EchoSockets>,
    paths: BTreeMap<PublicKey, Probed>,
    quiet: Quiet,
    next_identifier: u16,
    /// Bytes that the device had sent when it was looked last.
    device_sent: u64,
    /// Time is counted from here.
    began: Instant,
}

struct Probed {
    /// The peer's address inside the tunnel.
    inside: IpAddr,
    /// And beside it.
    outside: SocketAddr,
    identifier: u16,
    search: Search,
    /// What the device had sent to it when that was looked at last.
    sent: u64,
    /// What echoes have added since.
    echoed: u64,
}

impl Prober {
    pub(crate) fn new(interface: InterfaceName, mark: u32) -> Self {
        Self {
            interface,
            mark,
            sockets: None,
            paths: BTreeMap::new(),
            quiet: Quiet::default(),
            next_identifier: 0,
            device_sent: 0,
            began: Instant::now(),
        }
    }

    /// The largest packets that reach peers, of those that a larger one did not.
    pub(crate) fn found(&self) -> BTreeMap<PublicKey, u32> {
        let found =
            |(key, path): (&PublicKey, &Probed)| Some((*key, u32::from(path.search.narrowed()?)));
        self.paths.iter().filter_map(found).collect()
    }

    /// Takes over what the plan and the device say of peers. A path of which anything changed is looked at anew. `most`
    /// says how large packets inside may be on the way to an address.
    pub(crate) fn follow(
        &mut self,
        plan: &Plan,
        endpoints: &BTreeMap<PublicKey, SocketAddr>,
        most: impl Fn(IpAddr) -> u32,
    ) {
        let mut before = std::mem::take(&mut self.paths);
        for peer in &plan.tunnel_peers {
            let Some(&outside) = endpoints.get(&peer.key) else { continue };
            let Some(inside) = inside(plan, peer) else { continue };
            let most = u16::try_from(most(outside.ip())).unwrap_or(u16::MAX);
            let least = least(inside);
            let range = Range { least, most: most.max(least) };
            let same = before.remove(&peer.key).filter(|path| {
                (path.inside, path.outside, path.search.range()) == (inside, outside, range)
            });
            let path = same.unwrap_or_else(|| {
                self.next_identifier = self.next_identifier.checked_add(1).unwrap_or(NO_SEARCH + 1);
                let identifier = self.next_identifier;
                let search = Search::new(range);
                Probed { inside, outside, identifier, search, sent: 0, echoed: 0 }
            });
            self.paths.insert(peer.key, path);
        }
    }

    /// The device is a new one.
    pub(crate) fn forget_device(&mut self) {
        self.sockets = None;
    }

    /// The host's network or the device has changed: what was found may hold no longer. These peers hear from this node
    /// at once, and so learn where it is now.
    pub(crate) fn restart(&mut self, peers: impl IntoIterator<Item = PublicKey>) {
        let now = self.began.elapsed();
        for key in peers.into_iter().take(AT_ONCE_RESTARTED) {
            if let Some(path) = self.paths.get_mut(&key) {
                path.search.restart(now);
            }
        }
    }

    /// Sends an echo to those that say nothing, though their tunnels are to be kept open: a session that they know nothing
    /// of is found dead by it.
    pub(crate) fn wake(&mut self, plan: &Plan, device: &DeviceStatus) {
        for key in self.quiet.ask(self.began.elapsed(), &plan.tunnel_peers, device) {
            let Some(inside) = self.paths.get(&key).map(|path| path.inside) else { continue };
            let Some(sockets) = self.open() else { return };
            if let Err(error) = sockets.send_inside(inside, NO_SEARCH, 0, SMALL) {
                tracing::trace!(%error, to = %inside, "an echo is not sent");
            }
        }
    }

    /// The sockets, opened if they are not.
    fn open(&mut self) -> Option<&EchoSockets> {
        if self.sockets.is_none() {
            match EchoSockets::open(&self.interface, self.mark) {
                Ok(sockets) => self.sockets = Some(sockets),
                Err(error) => tracing::debug!(%error, "paths can't be probed"),
            }
        }
        self.sockets.as_ref()
    }

    /// Whether the device has sent anything since this was asked last: an idle one need not be looked at.
    pub(crate) fn is_busy(&mut self) -> bool {
        let counter = format!("/sys/class/net/{}/statistics/tx_bytes", self.interface);
        let sent = fs::read_to_string(counter).ok().and_then(|text| text.trim_end().parse().ok());
        let sent = sent.unwrap_or(self.device_sent);
        std::mem::replace(&mut self.device_sent, sent) != sent
    }

    /// Begins to look at paths on which packets flow.
    pub(crate) fn look(&mut self, device: &DeviceStatus) {
        let now = self.began.elapsed();
        let mut begun = 0;
        for peer in device.peers.iter().filter(|peer| peer.last_handshake.is_some()) {
            let Some(path) = self.paths.get_mut(&peer.key) else { continue };
            if peer.tx_bytes < path.sent {
                // Counted anew: the device is another one, or the peer was away.
                (path.sent, path.echoed) = (0, 0);
            }
            let flows = peer.tx_bytes.saturating_sub(path.sent) > path.echoed + QUIET;
            if flows && begun < AT_ONCE {
                begun += 1;
                path.search.look(now);
                (path.sent, path.echoed) = (peer.tx_bytes, 0);
            }
        }
    }

    /// Sends and hears what is due. Returns where packets may have been swallowed or a look has ended, so that the way
    /// there may be known better now, and whether more or less was found to fit than before. Dropping the future loses
    /// nothing.
    pub(crate) async fn turn(&mut self) -> Turn {
        loop {
            let due = self.paths.values().filter_map(|path| path.search.due()).min();
            let at = due.map(|due| self.began + due);
            let answer = tokio::select! {
                () = until(at) => None,
                answer = hear(self.sockets.as_ref()) => Some(answer),
            };
            let now = self.began.elapsed();
            let (before, stages) = (self.found(), self.stages());
            match answer {
                Some(Ok(answer)) => self.take(now, answer),
                // The device is gone, or was set down. The next echo goes by a new one.
                Some(Err(_)) => self.sockets = None,
                None => self.send(now),
            }
            let moved_on = stages.into_iter().zip(self.stages());
            let looked_at: BTreeSet<IpAddr> = moved_on
                .filter(|((_, before), (_, now))| before != now && *now != Stage::Asked)
                .map(|((address, _), _)| address)
                .collect();
            if !looked_at.is_empty() {
                return Turn { looked_at, is_news: before != self.found() };
            }
        }
    }

    /// How far the look at each path is.
    fn stages(&self) -> Vec<(IpAddr, Stage)> {
        let stage = |search: &Search| match search.due() {
            None => Stage::Rest,
            Some(_) if search.is_doubtful() => Stage::AskedAgain,
            Some(_) => Stage::Asked,
        };
        self.paths.values().map(|path| (path.outside.ip(), stage(&path.search))).collect()
    }

    fn take(&mut self, now: Duration, answer: Answer) {
        let asked = self
            .paths
            .values_mut()
            .find(|path| (path.identifier, path.inside) == (answer.identifier, answer.from));
        if let Some(path) = asked {
            path.search.answer(now, answer.number);
        }
    }

    fn send(&mut self, now: Duration) {
        self.open();
        for path in self.paths.values_mut() {
            let echoes = path.search.poll(now);
            let Some(largest) = echoes.iter().map(|echo| echo.size).max() else { continue };
            let Some(sockets) = &self.sockets else { continue };
            let outside = path.outside.ip();
            let outer = u32::from(largest) + overhead(outside);
            let beside = u16::try_from(outer).map(|size| sockets.send_outside(outside, size));
            for echo in echoes {
                path.echoed += u64::from(echo.size) + 64;
                let sent =
                    sockets.send_inside(path.inside, path.identifier, echo.number, echo.size);
                if let Err(error) = sent {
                    tracing::trace!(%error, to = %path.inside, size = echo.size, "an echo is not sent");
                }
            }
            if let Ok(Err(error)) = beside {
                tracing::trace!(%error, to = %outside, outer, "an echo is not sent");
            }
        }
    }
}

/// The peers whose sessions are in use. `wall` is the time since the Unix epoch.
pub(crate) fn live(device: &DeviceStatus, wall: Duration) -> impl Iterator<Item = PublicKey> {
    let is_live = move |at: Duration| wall.saturating_sub(at) < LIVE;
    let live = device.peers.iter().filter(move |peer| peer.last_handshake.is_some_and(is_live));
    live.map(|peer| peer.key)
}

/// How far the look at a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Rest,
    Asked,
    AskedAgain,
}

/// What came of a turn.
pub(crate) struct Turn {
    /// Where packets may have been swallowed, or looks have ended.
    pub(crate) looked_at: BTreeSet<IpAddr>,
    /// Whether other sizes are found to fit than before.
    pub(crate) is_news: bool,
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn hear(sockets: Option<&EchoSockets>) -> io::Result<Answer> {
    match sockets {
        Some(sockets) => sockets.next().await,
        None => std::future::pending().await,
    }
}

/// An address of a peer to which its own kernel answers, IPv4 if there is one: the narrowest paths are narrower than
/// IPv6 allows.
fn inside(plan: &Plan, peer: &TunnelPeer) -> Option<IpAddr> {
    let speaks = |address: &IpAddr| {
        let family = Family::of(*address);
        plan.addresses.iter().any(|own| own.family() == family)
    };
    let hosts = peer.allowed_ips.iter().filter(|prefix| prefix.length() == prefix.family().bits());
    let addresses: Vec<IpAddr> = match &peer.name {
        TunnelPeerName::Node(name) => {
            let node = plan.nodes.binary_search_by(|node| node.node.cmp(name)).ok()?;
            plan.nodes[node].overlay_addresses.clone()
        }
        TunnelPeerName::Peer(_) => hosts.map(|prefix| prefix.address()).collect(),
    };
    addresses.into_iter().filter(speaks).min_by_key(|address| Family::of(*address))
}

/// What every path carries: the least that a host must take in one piece (RFC 791, section 3.1; RFC 8200, section 5).
const fn least(inside: IpAddr) -> u16 {
    match inside {
        IpAddr::V4(_) => 576,
        IpAddr::V6(_) => 1280,
    }
}

#[cfg(test)]
mod tests {
    use wireloom_tunnel::uapi::PeerStatus;

    use super::*;

    #[test]
    fn a_device_that_counts_anew_is_looked_at_as_soon_as_packets_flow() {
        let key = PublicKey::from_bytes([2; 32]);
        let mut prober = Prober::new("wl0".parse().unwrap(), 0);
        let mut look = |sent, tx_bytes| {
            let path = Probed {
                inside: IpAddr::from([10, 4, 0, 2]),
                outside: SocketAddr::from(([192, 0, 2, 2], 51820)),
                identifier: 1,
                search: Search::new(Range { least: 576, most: 1420 }),
                sent,
                echoed: 1000,
            };
            prober.paths.insert(key, path);
            let last_handshake = Some(Duration::from_secs(1));
            let peer = PeerStatus { tx_bytes, last_handshake, ..PeerStatus::new(key) };
            prober.look(&DeviceStatus { peers: vec![peer], ..DeviceStatus::default() });
            let path = &prober.paths[&key];
            (path.search.due().is_some(), path.sent, path.echoed)
        };
        // By the same device: the echoes are no flow.
        assert_eq!(look(1_000_000, 1_001_000), (false, 1_000_000, 1000));
        assert_eq!(look(1_000_000, 1_002_000), (true, 1_002_000, 0));
        // By another one.
        assert_eq!(look(1_000_000, 200), (false, 0, 0));
        assert_eq!(look(1_000_000, 2_000), (true, 2_000, 0));
    }
}
