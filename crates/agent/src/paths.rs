//! How wide the paths to peers are, and what follows from that for the tunnel. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use wireloom_kernel::Way;
use wireloom_model::{Problem, ProblemKind, PublicKey, Subject};
use wireloom_topology::{Plan, TunnelPeer, TunnelPeerName, Underlay};

use crate::status::Places;

/// The MTU of an Ethernet (RFC 894).
const ETHERNET_MTU: u32 = 1500;

/// The MTU of a tunnel over an Ethernet of 1,500 bytes, whichever family is outside.
pub(crate) const USUAL_MTU: u32 = 1420;

/// The least MTU that IPv6 works with (RFC 8200, section 5).
const LEAST_MTU: u32 = 1280;

/// Packets in a tunnel are padded to whole blocks of 16 bytes, up to the device's MTU (WireGuard paper, section 5.4.6): a
/// packet that is smaller than that must leave room for it.
const BLOCK: u32 = 16;

/// What a tunnel adds to a packet on the way to this address: IP, UDP, and WireGuard's header and tag (WireGuard paper,
/// section 5.4.6).
pub(crate) const fn overhead(endpoint: IpAddr) -> u32 {
    let ip = match endpoint {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    ip + 8 + 32
}

/// What is known of paths.
pub(crate) struct Paths<'a> {
    /// The MTU that the mesh sets for its tunnels.
    pub(crate) mesh_mtu: Option<u32>,
    /// Where each peer is.
    pub(crate) endpoints: &'a BTreeMap<PublicKey, SocketAddr>,
    /// Where each may be dialled at any moment.
    pub(crate) places: &'a BTreeMap<PublicKey, Places>,
    /// The largest packets inside the tunnel that were seen to arrive, where larger ones did not.
    pub(crate) found: &'a BTreeMap<PublicKey, u32>,
    /// The bits that mark the tunnel's own packets.
    pub(crate) mark: u32,
    /// The metric of our routes in the main table.
    pub(crate) metric: u32,
}

/// One peer's path, in bytes of packets inside the tunnel.
struct Path<'a> {
    peer: &'a TunnelPeer,
    endpoint: SocketAddr,
    /// What the first link takes.
    link: u32,
    /// What arrives.
    fits: u32,
}

impl Paths<'_> {
    /// What the plan is carried out over, and what is wrong with it. `way` tells how packets to an address leave.
    ///
    /// The tunnel device is as wide as the widest first link leaves it. Peers with a narrower path have routes that say
    /// so, and their packets alone are smaller.
    pub(crate) fn underlay<'w>(
        &self,
        plan: &Plan,
        way: impl Fn(IpAddr) -> Option<&'w Way>,
    ) -> (Underlay, Vec<Problem>) {
        let paths: Vec<Path<'_>> =
            plan.tunnel_peers.iter().filter_map(|peer| self.path(peer, &way)).collect();
        let widest = paths.iter().map(|path| path.link).max();
        let tunnel_mtu = self.mesh_mtu.unwrap_or_else(|| widest.unwrap_or(USUAL_MTU));
        let known: BTreeMap<PublicKey, u32> =
            paths.iter().map(|path| (path.peer.key, path.fits)).collect();
        let narrow = plan.tunnel_peers.iter().filter_map(|peer| {
            let fits = known.get(&peer.key).copied().unwrap_or(USUAL_MTU);
            (fits < tunnel_mtu).then(|| (peer.key, whole_blocks(fits)))
        });
        let internal = wrap_ends(plan).filter_map(&way).map(|way| way.mtu).min();
        let problems = paths.iter().filter_map(|path| self.mismatch(path, tunnel_mtu)).collect();
        let underlay = Underlay {
            tunnel_mtu,
            internal_mtu: internal.unwrap_or(ETHERNET_MTU),
            narrow: narrow.collect(),
            endpoints: self.ends().map(|end| end.ip()).collect(),
            mark: self.mark,
            metric: self.metric,
        };
        (underlay, problems)
    }

    /// All places that packets of the tunnel are sent to or may be.
    fn ends(&self) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.values().copied().chain(self.places.values().flat_map(Places::all))
    }

    fn path<'p, 'w>(
        &self,
        peer: &'p TunnelPeer,
        way: &impl Fn(IpAddr) -> Option<&'w Way>,
    ) -> Option<Path<'p>> {
        let endpoint = *self.endpoints.get(&peer.key)?;
        let way = way(endpoint.ip())?;
        let inside = |mtu: u32| mtu.saturating_sub(overhead(endpoint.ip()));
        let found = self.found.get(&peer.key).copied().unwrap_or(u32::MAX);
        let link = inside(way.link.mtu).clamp(LEAST_MTU, u16::MAX.into());
        Some(Path { peer, endpoint, link, fits: inside(way.mtu).min(found) })
    }

    fn mismatch(&self, path: &Path<'_>, tunnel_mtu: u32) -> Option<Problem> {
        let Path { peer, endpoint, link, fits } = path;
        let wanted = self.mesh_mtu.unwrap_or(*link);
        if *fits >= wanted {
            return None;
        }
        let fits = whole_blocks(*fits);
        let pieces = if fits < LEAST_MTU {
            format!(" (IPv6 works with {LEAST_MTU} and more, so its largest packets go in pieces)")
        } else {
            String::new()
        };
        let message = format!(
            "the path to it ({endpoint}) takes packets of {fits} bytes, the tunnel's have up to {tunnel_mtu}: \
             the routes to it say {fits}{pieces}"
        );
        let subject = match &peer.name {
            TunnelPeerName::Node(name) => Subject::Node(name.clone()),
            TunnelPeerName::Peer(name) => Subject::Peer(name.clone()),
        };
        Some(Problem::warning(subject, ProblemKind::PathMtu, message))
    }
}

/// The largest packet that is no larger than this when it is padded.
const fn whole_blocks(fits: u32) -> u32 {
    fits / BLOCK * BLOCK
}

/// The addresses whose paths matter to a plan.
pub(crate) fn far_ends(
    plan: &Plan,
    endpoints: &BTreeMap<PublicKey, SocketAddr>,
) -> BTreeSet<IpAddr> {
    endpoints.values().map(SocketAddr::ip).chain(wrap_ends(plan)).collect()
}

/// Others of the location whose packets are wrapped: a sample, for all are in one network.
fn wrap_ends(plan: &Plan) -> impl Iterator<Item = IpAddr> {
    const SAMPLE: usize = 16;
    plan.wraps.values().flat_map(|wrap| wrap.ends.keys().copied().take(SAMPLE))
}

#[cfg(test)]
mod tests;
