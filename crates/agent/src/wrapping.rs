//! Asks whether what this node wraps for others of its location arrives: the echoes behind [`Trials`].

mod trials;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use tokio::time::{Instant, sleep_until};
use wireloom_model::{EncapsulateBy, Family, InterfaceName, Problem, ProblemKind, Subject};
use wireloom_topology::{Plan, VXLAN_PORT};

use crate::echo::{Answer, EchoSocket};
use trials::{Echo, Trials};

/// How many others are asked, of each family: all are in one network.
const SAMPLE: usize = 16;

/// An echo's size in bytes, which goes through any link.
const SIZE: u16 = 64;

/// Looks after everything that wraps.
pub(crate) struct Wrapping {
    interface: InterfaceName,
    links: Vec<Link>,
    began: Instant,
}

/// What wraps packets of one family.
struct Link {
    family: Family,
    by: EncapsulateBy,
    /// The addresses that bare and wrapped echoes come from.
    from: [IpAddr; 2],
    /// `None` until the first echo, and when one of them failed.
    sockets: Option<[EchoSocket; 2]>,
    trials: Trials,
    /// How many packets it had sent and received when that was looked at last.
    packets: [u64; 2],
}

impl Wrapping {
    pub(crate) fn new(interface: InterfaceName) -> Self {
        Self { interface, links: Vec::new(), began: Instant::now() }
    }

    /// Takes over what the plan says.
    pub(crate) fn follow(&mut self, plan: &Plan) {
        let now = self.began.elapsed();
        let mut before = std::mem::take(&mut self.links);
        for (&family, wrap) in &plan.wraps {
            // A tunnel knows by itself whom it reaches, and others' links are others' to look after.
            if wrap.by == EncapsulateBy::WireGuard || wrap.link.is_some() {
                continue;
            }
            let own = plan.addresses.iter().map(|address| address.address());
            let Some(own) = own.into_iter().find(|own| Family::of(*own) == family) else {
                continue;
            };
            let (by, from) = (wrap.by, [wrap.local, own]);
            let same = before
                .iter()
                .position(|link| (link.family, link.by, link.from) == (family, by, from))
                .map(|at| before.swap_remove(at));
            let new = || Link {
                family,
                by,
                from,
                sockets: None,
                trials: Trials::default(),
                packets: [0; 2],
            };
            let mut link = same.unwrap_or_else(new);
            let ends: BTreeSet<IpAddr> = wrap.ends.keys().copied().take(SAMPLE).collect();
            link.trials.follow(now, &ends);
            self.links.push(link);
        }
    }

    /// Asks those links again that have sent and received nothing since this was called last.
    pub(crate) fn look(&mut self, plan: &Plan) {
        let now = self.began.elapsed();
        for link in &mut self.links {
            let Some(wrap) = plan.wraps.get(&link.family) else { continue };
            let name = wrap.link(&self.interface, link.family);
            let count = |counter: &str| {
                let path = format!("/sys/class/net/{name}/statistics/{counter}");
                fs::read_to_string(path).ok()?.trim_end().parse().ok()
            };
            let packets = ["tx_packets", "rx_packets"].map(|name| count(name).unwrap_or(0));
            let before = std::mem::replace(&mut link.packets, packets);
            if packets[0] > before[0] && packets[1] == before[1] {
                link.trials.doubt(now);
            }
        }
    }

    /// Sends and hears what is due, until more or less is found to be dropped than before. Dropping the future loses
    /// nothing.
    pub(crate) async fn turn(&mut self) {
        loop {
            let before = self.dropped();
            let due = self.links.iter().filter_map(|link| link.trials.due()).min();
            // An answer that is there is in time, however late this runs.
            let heard = tokio::select! {
                biased;
                heard = hear(&self.links) => Some(heard),
                () = until(due.map(|due| self.began + due)) => None,
            };
            match heard {
                None => self.send(),
                Some((at, echo, Ok(Answer { from, number, .. }))) => {
                    self.links[at].trials.answer(from, number, echo);
                }
                Some((at, _, Err(error))) => {
                    tracing::debug!(%error, "an echo socket is opened anew");
                    self.links[at].sockets = None;
                }
            }
            if self.dropped() != before {
                return;
            }
        }
    }

    fn send(&mut self) {
        let now = self.began.elapsed();
        for link in &mut self.links {
            for (end, number) in link.trials.poll(now) {
                if let Err(error) = link.send(end, number) {
                    tracing::debug!(%error, %end, "no echo is sent to see whether it reaches by what wraps");
                }
            }
        }
    }

    fn dropped(&self) -> Vec<BTreeSet<IpAddr>> {
        self.links.iter().map(|link| link.trials.dropped()).collect()
    }

    /// What was found, with what to do.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let links = self.links.iter().map(|link| (link, link.trials.dropped()));
        let blocked = links.filter(|(_, dropped)| !dropped.is_empty());
        blocked.map(|(link, dropped)| link.problem(&dropped)).collect()
    }
}

impl Link {
    fn send(&mut self, end: IpAddr, number: u16) -> io::Result<()> {
        let sockets = match &mut self.sockets {
            Some(sockets) => sockets,
            none => {
                let [bare, wrapped] = self.from;
                none.insert([EchoSocket::open(bare)?, EchoSocket::open(wrapped)?])
            }
        };
        sockets.iter().try_for_each(|socket| socket.send(end, number, SIZE))
    }

    fn problem(&self, dropped: &BTreeSet<IpAddr>) -> Problem {
        let ends: Vec<String> = dropped.iter().take(3).map(ToString::to_string).collect();
        let more = match dropped.len() - ends.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (what, instead) = match self.by {
            EncapsulateBy::Ipip => ("IPIP (IP protocol 4)".to_owned(), "\"vxlan\""),
            _ => (format!("VXLAN (UDP port {VXLAN_PORT})"), "\"wireguard\""),
        };
        let message = format!(
            "{}{more} answers, yet not to what is wrapped in {what}: the network between drops it, or no agent runs \
             there; let it pass, or set encapsulate-by = {instead}",
            ends.join(", ")
        );
        Problem::error(Subject::Mesh, ProblemKind::Dropped, message)
    }
}

/// Waits for the next answer on any link.
async fn hear(links: &[Link]) -> (usize, Echo, io::Result<Answer>) {
    let sockets = links.iter().enumerate().flat_map(|(at, link)| {
        let sockets = link.sockets.iter().flatten();
        sockets.zip([Echo::Bare, Echo::Wrapped]).map(move |(socket, echo)| (at, echo, socket))
    });
    let waits: Vec<_> = sockets
        .map(|(at, echo, socket)| Box::pin(async move { (at, echo, socket.next().await) }))
        .collect();
    if waits.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(waits).await.0
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
