//! What the agent knows of its machine, followed as it changes.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;
use wireloom_kernel::{Event, Host, HostError, Watch};
use wireloom_kube::{Facts, HostAddress};
use wireloom_model::{InterfaceName, PublicKey};

/// Addresses that no network has, and that packets to the world are therefore sent like: a relay's that was given up
/// (RFC 7526), and one of a network that was given back (RFC 3701).
const WORLD: [&str; 2] = ["192.88.99.1", "3ffe::1"];

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(500);

/// How often the host is looked at though it tells of no change.
const PERIOD: Duration = Duration::from_secs(60);

/// The same, until it could be read once.
const RETRY: Duration = Duration::from_secs(5);

/// The link of Cilium that takes what is wrapped for this node.
const CILIUM_LINK: &str = "cilium_host";

/// Follows the host of the calling thread's network namespace. `own` is our tunnel device, which says nothing of it, and `mark` what
/// its packets bear. Nothing is known until the host could be read once, and then what was read last.
///
/// # Errors
///
/// If there is no netlink.
pub(crate) fn follow(
    key: PublicKey,
    own: InterfaceName,
    mark: u32,
) -> Result<watch::Receiver<Option<Facts>>, HostError> {
    let host = Host::new()?;
    let (facts, followed) = watch::channel::<Option<Facts>>(None);
    tokio::spawn(async move {
        let mut watch = None;
        while !facts.is_closed() {
            // What changes from here on, while it is looked at or gathered, is told afterwards.
            if watch.is_none() {
                watch = host.watch().await.ok();
            }
            match gather(&host, &own, mark).await {
                Ok((addresses, cni_address)) => {
                    let now = Some(Facts { key, addresses, cni_address });
                    facts.send_if_modified(|last| {
                        let is_news = *last != now;
                        *last = now;
                        is_news
                    });
                }
                Err(error) => tracing::warn!(%error, "this host's addresses can't be read"),
            }
            let period = if facts.borrow().is_some() { PERIOD } else { RETRY };
            // Either is a reason to look again.
            let _ = tokio::time::timeout(period, change(&mut watch)).await;
            tokio::time::sleep(GATHER).await;
        }
    });
    Ok(followed)
}

/// What the agent knows of the host at this moment.
pub(crate) async fn now(
    key: PublicKey,
    own: &InterfaceName,
    mark: u32,
) -> Result<Facts, HostError> {
    let (addresses, cni_address) = gather(&Host::new()?, own, mark).await?;
    Ok(Facts { key, addresses, cni_address })
}

type Addresses = (Vec<HostAddress>, Option<wireloom_model::InterfaceAddress>);

async fn gather(host: &Host, own: &InterfaceName, mark: u32) -> Result<Addresses, HostError> {
    let world: Vec<IpAddr> = WORLD.iter().filter_map(|text| text.parse().ok()).collect();
    let ways = host.ways_to(&world, mark).await?;
    let ways_out: Vec<InterfaceName> =
        ways.into_iter().flatten().map(|way| way.link.name).collect();
    let mut addresses = Vec::new();
    let mut cilium = None;
    for found in host.addresses().await? {
        if found.link.as_str() == CILIUM_LINK && found.address.address().is_ipv4() {
            cilium = cilium.or(Some(found.address));
        }
        if found.link != *own {
            let is_way_out = ways_out.contains(&found.link);
            addresses.push(HostAddress { link: found.link, address: found.address, is_way_out });
        }
    }
    Ok((addresses, cilium))
}

/// Waits until a link, an address or the way to the world changes. Without a watch that can't be told; one that fails is
/// dropped, and it is time to look again.
async fn change(watch: &mut Option<Watch>) {
    let Some(open) = watch else { return std::future::pending().await };
    while let Some(event) = open.next().await {
        let is_it = match event {
            Event::OthersRoute { destination } => destination.length() == 0,
            Event::AddressChanged { .. }
            | Event::LinkChanged { .. }
            | Event::LinkGone { .. }
            | Event::Overrun => true,
            _ => false,
        };
        if is_it {
            return;
        }
    }
    *watch = None;
}
