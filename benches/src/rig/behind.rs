//! What can stand behind the tunnel of a rig of two hosts, or on top of it.

use anyhow::Result;
use wireloom_lab::Host;
use wireloom_lab::host::Namespace;

use super::end::{End, ip};
use super::{INTERFACE, Rig, TUNNEL_MTU, await_packet};
use crate::iperf::Way;

/// A pod behind each host: a namespace on a bridge, by a veth pair, as a container network has them.
#[derive(Debug)]
pub struct Pods {
    from: Host,
    to: Host,
    address: String,
}

impl Pods {
    /// Puts a pod behind the first sender and one behind the receiver, and waits until a packet passes between them.
    ///
    /// # Errors
    ///
    /// What the lab says, or that no packet passed in time.
    pub fn start(rig: &Rig) -> Result<Self> {
        let (sender, receiver) = (&rig.senders[0], &rig.receiver);
        let pods = Self {
            from: pod(sender)?,
            to: pod(receiver)?,
            address: format!("{}.2", receiver.pods()),
        };
        let (out, back) = if rig.tunnels {
            (format!("dev {INTERFACE}"), format!("dev {INTERFACE}"))
        } else {
            (format!("via {}", sender.far), format!("via {}", sender.near))
        };
        sender.ip(&format!("route add {}.0/24 {out}", receiver.pods()))?;
        receiver.ip(&format!("route add {}.0/24 {back}", sender.pods()))?;
        await_packet(pods.way())?;
        Ok(pods)
    }

    /// The way from pod to pod.
    pub fn way(&self) -> Way<'_> {
        Way { from: &self.from, to: &self.to, address: &self.address }
    }
}

fn pod(end: &End) -> Result<Host> {
    let pod = Host::start("pod")?;
    let namespace = pod.namespace(Namespace::Network);
    let (pods, namespace) = (end.pods(), namespace.to_string_lossy());
    end.host.write("/proc/sys/net/ipv4/ip_forward", "1")?;
    end.ip("link add pods type bridge")?;
    end.ip(&format!("address add {pods}.1/24 dev pods"))?;
    end.ip("link set pods up")?;
    // A pod has the MTU of the tunnel, as container networks set it.
    end.ip(&format!("link add pod type veth peer name eth0 mtu {TUNNEL_MTU} netns {namespace}"))?;
    end.ip("link set pod master pods up")?;
    ip(&pod, "link set lo up")?;
    ip(&pod, &format!("address add {pods}.2/24 dev eth0"))?;
    ip(&pod, "link set eth0 up")?;
    ip(&pod, &format!("route add default via {pods}.1"))?;
    Ok(pod)
}

/// A VXLAN between both hosts of a rig, through the tunnel if there is one.
#[derive(Debug)]
pub struct Vxlan<'a>(Way<'a>);

impl<'a> Vxlan<'a> {
    /// Makes the links and waits until a packet passes.
    ///
    /// # Errors
    ///
    /// What the lab says, or that no packet passed in time.
    pub fn start(rig: &'a Rig) -> Result<Self> {
        let (sender, receiver) = (&rig.senders[0], &rig.receiver);
        let (near, far, links, mtu) = if rig.tunnels {
            (&sender.inner, &receiver.inner, [INTERFACE; 2], TUNNEL_MTU)
        } else {
            (&sender.near, &sender.far, ["veth0", "veth1"], 1500)
        };
        // An outer IPv4 and UDP header, the VXLAN header and an Ethernet header (RFC 7348, section 5).
        let mtu = mtu - 50;
        let ends = [(sender, near, far, links[0], 1), (receiver, far, near, links[1], 2)];
        for (end, local, remote, link, number) in ends {
            end.ip(&format!(
                "link add vxlan0 mtu {mtu} type vxlan id 7 local {local} remote {remote} dstport 4789 dev {link}"
            ))?;
            end.ip(&format!("address add 10.4.0.{number}/24 dev vxlan0"))?;
            end.ip("link set vxlan0 up")?;
        }
        let vxlan = Self(Way { from: &sender.host, to: &receiver.host, address: "10.4.0.2" });
        await_packet(vxlan.way())?;
        Ok(vxlan)
    }

    /// The way over the VXLAN.
    pub const fn way(&self) -> Way<'a> {
        self.0
    }
}
