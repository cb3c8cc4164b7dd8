//! Asks whether this node's home gateway passes packets on: the echoes behind [`Watch`].

mod watch;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use tokio::time::{Instant, sleep_until};
use wireloom_model::{Family, NodeName, Problem, ProblemKind, Snapshot, Subject};
use wireloom_topology::{NodeSummary, Plan};

use crate::echo::EchoSocket;
use watch::{Round, Watch};

/// How many nodes of the own location, and gateways of others, are asked.
const SAMPLE: usize = 3;

/// An echo's size in bytes, which goes through any link.
const SIZE: u16 = 64;

/// Watches the home gateway of a node that is none itself.
pub(crate) struct Beyond {
    watch: Watch,
    /// This node's overlay address, from which the echoes come. `None` while there is nothing to watch.
    from: Option<IpAddr>,
    /// `None` until the first echo, and when one failed.
    socket: Option<EchoSocket>,
    began: Instant,
}

impl Beyond {
    pub(crate) fn new() -> Self {
        Self { watch: Watch::default(), from: None, socket: None, began: Instant::now() }
    }

    /// Takes over what the plan says. Without one, nobody is asked.
    pub(crate) fn follow(&mut self, plan: Option<(&Plan, &Snapshot)>) {
        let now = self.began.elapsed();
        let asked = plan.and_then(|(plan, snapshot)| whom_to_ask(plan, snapshot));
        let (from, round) = asked.unzip();
        if from != self.from {
            self.socket = None;
        }
        self.from = from;
        self.watch.follow(now, round);
    }

    /// Sends and hears what is due, until the verdict on a gateway changes. Dropping the future loses nothing.
    pub(crate) async fn turn(&mut self) {
        loop {
            let before = self.watch.blamed();
            let due = self.watch.due();
            // An answer that is there is in time, however late this runs.
            let heard = tokio::select! {
                biased;
                heard = hear(self.socket.as_ref()) => Some(heard),
                () = until(due.map(|due| self.began + due)) => None,
            };
            let now = self.began.elapsed();
            match heard {
                None => self.ask(),
                Some(Ok(from)) => self.watch.heard(now, from),
                Some(Err(error)) => {
                    tracing::debug!(%error, "an echo socket is opened anew");
                    self.socket = None;
                }
            }
            if self.watch.blamed() != before {
                return;
            }
        }
    }

    fn ask(&mut self) {
        let ends = self.watch.poll(self.began.elapsed());
        for end in ends {
            if let Err(error) = self.send(end) {
                tracing::debug!(%error, %end, "no echo is sent to see whether it is reached");
            }
        }
    }

    fn send(&mut self, end: IpAddr) -> io::Result<()> {
        let Some(from) = self.from else { return Ok(()) };
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => none.insert(EchoSocket::open(from)?),
        };
        socket.send(end, 0, SIZE)
    }

    /// The gateways that are there and pass nothing on, for others to plan by.
    pub(crate) fn blamed(&self) -> BTreeSet<NodeName> {
        self.watch.blamed()
    }

    /// What is wrong with the gateway of now.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let home = self.watch.fails()?;
        let message = "it is this node's gateway, and through it no other location's gateway answers; see whether it forwards, and \
             what its packet filter drops, by `wireloom doctor` there"
            .to_owned();
        Some(Problem::error(Subject::Node(home.clone()), ProblemKind::Dropped, message))
    }
}

/// From which address a node asks whom. `None` for one that is a gateway itself, or has nobody to ask.
fn whom_to_ask(plan: &Plan, snapshot: &Snapshot) -> Option<(IpAddr, Round)> {
    if plan.gateway {
        return None;
    }
    let healthy: BTreeSet<&NodeName> =
        snapshot.nodes.iter().filter(|node| node.healthy).map(|node| &node.name).collect();
    let here = plan.nodes.partition_point(|node| node.node < plan.node);
    // Each begins with the ones after it, so that not all ask the same.
    let others = || plan.nodes[here..].iter().chain(&plan.nodes[..here]);
    let others = || others().filter(|node| node.node != plan.node && healthy.contains(&node.node));
    let of_family = |family: Family| {
        let address = |node: &NodeSummary| {
            node.overlay_addresses.iter().copied().find(|address| Family::of(*address) == family)
        };
        let own = plan.addresses.iter().map(|own| own.address());
        let own = own.into_iter().find(|own| Family::of(*own) == family)?;
        let home = address(plan.nodes.iter().find(|node| node.node == plan.home)?)?;
        let near = others().filter(|node| node.segment == plan.segment && node.node != plan.home);
        let mut segments = BTreeSet::new();
        let far = others().filter(|node| node.gateway && node.segment != plan.segment);
        let far = far.filter(|node| segments.insert(node.segment.clone()));
        let round = Round {
            gateway: plan.home.clone(),
            near: near.filter_map(address).take(SAMPLE).chain([home]).collect(),
            far: far.filter_map(address).take(SAMPLE).collect(),
        };
        (!round.far.is_empty()).then_some((own, round))
    };
    Family::BOTH.into_iter().find_map(of_family)
}

async fn hear(socket: Option<&EchoSocket>) -> io::Result<IpAddr> {
    match socket {
        Some(socket) => socket.next().await.map(|answer| answer.from),
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
