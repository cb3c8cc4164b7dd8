//! The host seen through netlink: what of ours is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use wireloom_model::InterfaceName;
use wireloom_model::kernel::{
    Address, KernelState, Link, LinkKind, LinkSetting, Nft, ROUTE_PROTOCOL, Route,
};

use crate::error::HostError;
use crate::links::HostLink;
use crate::message::{HeardEnd, HeardLink, HeardRoute};
use crate::netlink::Netlink;
use crate::nft::{ForwardDrop, Nftables};
use crate::routes::Routes;
use crate::sysctl;

/// A network namespace's kernel state.
///
/// It belongs to the namespace of the thread that called [`Host::new`], wherever it is used later.
#[derive(Debug, Clone)]
pub struct Host {
    netlink: Arc<Netlink>,
    routes: Arc<Routes>,
    /// `None` where the kernel has no netfilter.
    nftables: Option<Arc<Nftables>>,
}

impl Host {
    /// Opens the calling thread's network namespace. The connection runs on the tokio runtime in whose context this is
    /// called, which must have IO and time enabled.
    pub fn new() -> Result<Self, HostError> {
        let netlink = Arc::new(Netlink::open()?);
        let routes = Arc::new(Routes::open()?);
        Ok(Self { netlink, routes, nftables: Nftables::open()?.map(Arc::new) })
    }

    /// What of ours is there:
    ///
    /// - those of the links `ours` that exist, and every link of our [group](wireloom_model::kernel::LINK_GROUP) that is of a kind that we make;
    ///   with their addresses, far ends and settings,
    /// - every route and rule of our [protocol](ROUTE_PROTOCOL), in any table,
    /// - the nftables table of [our name](wireloom_model::kernel::NFT_TABLE). One that is not as we made it is observed
    ///   as one that does nothing.
    ///
    /// IPv6 link-local addresses are the kernel's and left out. Settings are those of the calling thread's namespace.
    ///
    /// Lists that the kernel says have changed while it told them are read anew. It does not always say so, so
    /// something may be missing here that is there. That does no harm: what is missing is made again by a request that
    /// keeps what is there, and only what was seen is ever deleted.
    pub async fn observe(&self, ours: &[InterfaceName]) -> Result<KernelState, HostError> {
        // The table is read beside all else: with many nodes, either takes its time.
        let nft =
            self.nftables.clone().map(|nft| tokio::task::spawn_blocking(move || nft.observe()));
        let heard = self.heard_links().await?;
        let names: BTreeMap<u32, InterfaceName> =
            heard.iter().map(|heard| (heard.link.index, heard.link.name.clone())).collect();
        let mut state = KernelState::default();
        for HeardLink { link: HostLink { name, mtu, up, .. }, made } in heard {
            if made != LinkKind::Held || ours.contains(&name) {
                for setting in LinkSetting::ALL {
                    let value = sysctl::link_setting(&name, setting);
                    state.settings.extend(value.map(|value| ((name.clone(), setting), value)));
                }
                state.links.insert(name, Link { mtu, up, kind: made });
            }
        }
        for heard in self.heard_addresses().await? {
            let link = names.get(&heard.link).filter(|link| state.links.contains_key(*link));
            if let Some(link) = link.filter(|_| !heard.is_link_local_v6()) {
                state.addresses.insert(Address { link: link.clone(), address: heard.address });
            }
        }
        let route = |HeardRoute { key, gateway, link, source, mtu, .. }: HeardRoute| {
            let link = link.and_then(|link| names.get(&link)).cloned();
            (key, Route { gateway, link, source, mtu })
        };
        let routes = self.heard_routes(Some(ROUTE_PROTOCOL)).await?;
        state.routes = routes.into_iter().map(route).collect();
        let rules = self.heard_rules().await?;
        state.rules =
            rules.into_iter().filter(|heard| heard.is_ours).map(|heard| heard.rule).collect();
        let is_vxlan = |kind: &LinkKind| matches!(kind, LinkKind::Vxlan { .. });
        if state.links.values().any(|link| is_vxlan(&link.kind)) {
            let vxlan = |link: u32| {
                let name = names.get(&link)?;
                state.links.get(name).filter(|link| is_vxlan(&link.kind)).map(|_| name.clone())
            };
            for end in self.heard_ends().await? {
                match end {
                    HeardEnd::Forwarding { link, mac, host } => {
                        let link = vxlan(link);
                        state.forwarding.extend(link.map(|link| ((link, mac), host)));
                    }
                    HeardEnd::Neighbour { link, address, mac } => {
                        let link = vxlan(link);
                        state.neighbours.extend(link.map(|link| ((link, address), mac)));
                    }
                }
            }
        }
        state.nft = match nft {
            Some(nft) => nft.await.unwrap_or(Err(HostError::Closed))?,
            None => None,
        };
        Ok(state)
    }

    /// The nftables chains of all tables that drop what this host passes on for others and none of their rules takes,
    /// so that the mesh's packets need a rule there, and have none of ours. Those of the older iptables (`ip_tables`)
    /// are not seen.
    pub fn forward_drops(&self) -> Result<Vec<ForwardDrop>, HostError> {
        self.nftables().map_or_else(|| Ok(Vec::new()), Nftables::forward_drops)
    }

    /// The nftables chains of others that have a rule of ours, which accepts what the mesh passes on.
    pub fn forward_accepts(&self) -> Result<Vec<ForwardDrop>, HostError> {
        self.nftables().map_or_else(|| Ok(Vec::new()), Nftables::forward_accepts)
    }

    /// Whether [`Change::AcceptPassed`](crate::Change::AcceptPassed) with these bits may have something to do.
    pub(crate) fn is_accept_due(&self, bits: u32) -> Result<bool, HostError> {
        self.nftables().map_or(Ok(false), |nftables| nftables.is_accept_due(bits))
    }

    /// The nftables table as [`observe`](Self::observe) tells it.
    pub(crate) fn observe_nft(&self) -> Result<Option<Nft>, HostError> {
        self.nftables().map_or(Ok(None), Nftables::observe)
    }

    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes)
    }

    pub(crate) fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    pub(crate) fn nftables(&self) -> Option<&Nftables> {
        self.nftables.as_deref()
    }
}
