//! A lab built and running.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use crate::error::Error;
use crate::host::{Host, Namespace};
use crate::plan::{INTERNET, Layout, Plan};
use crate::program::Program;
use crate::setup::{Setup, public_bridge, setups};

/// A network of regions, running. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    hosts: BTreeMap<String, Host>,
    latency: Latency,
}

/// Whether the regions are as far apart as the description says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Latency {
    /// By the kernel's netem queueing discipline.
    Applied,
    /// The description asks for none.
    None,
    /// It cannot be had here, and the lab runs without.
    Unavailable {
        /// What is missing.
        reason: String,
    },
}

impl Lab {
    /// Builds what the layout describes.
    ///
    /// # Errors
    ///
    /// A layout without a plan, no root, a missing program, or whatever `ip` and `nft` have to say.
    pub fn build(layout: &Layout) -> Result<Self, Error> {
        let plan = layout.plan()?;
        if let Some(&program) = Program::missing().first() {
            return Err(Error::Missing(program));
        }
        let hosts = plan
            .names()
            .map(|name| Ok((name.to_owned(), Host::start(name)?)))
            .collect::<Result<BTreeMap<_, _>, Error>>()?;
        let namespace = |name: &str| {
            let file = hosts.get(name).map(|host| host.namespace(Namespace::Network));
            file.unwrap_or_default().to_string_lossy().into_owned()
        };
        let setups = setups(&plan, namespace);
        on_each(&hosts, &setups, make_links)?;
        on_each(&hosts, &setups, configure)?;
        let mut lab = Self { plan, hosts, latency: Latency::None };
        lab.latency = lab.apply_latency()?;
        Ok(lab)
    }

    /// Its addresses.
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Whether its latencies are real.
    pub const fn latency(&self) -> &Latency {
        &self.latency
    }

    /// The host, pod or region of this name, or the internet ([`INTERNET`]).
    ///
    /// # Errors
    ///
    /// [`Error::NoHost`].
    pub fn host(&self, name: &str) -> Result<&Host, Error> {
        self.hosts.get(name).ok_or_else(|| Error::NoHost { name: name.to_owned() })
    }

    /// All of them, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    fn apply_latency(&self) -> Result<Latency, Error> {
        let far = self.plan.regions.iter().filter(|region| !region.latency.is_zero());
        let delays: String =
            far.map(|region| delay(&public_bridge(region.number), region.latency)).collect();
        if delays.is_empty() {
            return Ok(Latency::None);
        }
        let internet = self.host(INTERNET)?;
        let run = |script: &str| internet.feed(Program::Tc, &["-batch", "-"], script);
        // The loopback link serves as the probe: nothing crosses it here.
        match run(&delay("lo", Duration::ZERO)) {
            Ok(()) => run(&delays).map(|()| Latency::Applied),
            Err(Error::Failed { .. }) => {
                Ok(Latency::Unavailable { reason: "no netem in this kernel".to_owned() })
            }
            Err(error @ Error::Missing(_)) => {
                Ok(Latency::Unavailable { reason: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }
}

/// A line for `tc -batch`. The limit is in packets: more than a fast link has under way in the longest delay.
fn delay(link: &str, delay: Duration) -> String {
    format!("qdisc add dev {link} root netem delay {}us limit 100000\n", delay.as_micros())
}

fn make_links(host: &Host, setup: &Setup) -> Result<(), Error> {
    if setup.links.is_empty() {
        return Ok(());
    }
    host.feed(Program::Ip, &["-batch", "-"], &setup.links)
}

fn configure(host: &Host, setup: &Setup) -> Result<(), Error> {
    if setup.forwards {
        host.write("/proc/sys/net/ipv4/ip_forward", "1")?;
        host.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    }
    host.feed(Program::Ip, &["-batch", "-"], &setup.network)?;
    match setup.filter {
        Some(rules) => host.feed(Program::Nft, &["-f", "-"], rules),
        None => Ok(()),
    }
}

/// Does one step on all hosts at the same time.
fn on_each(
    hosts: &BTreeMap<String, Host>,
    setups: &[Setup],
    step: fn(&Host, &Setup) -> Result<(), Error>,
) -> Result<(), Error> {
    thread::scope(|scope| {
        let work = |setup: &Setup| {
            let host = hosts.get(&setup.host);
            host.ok_or_else(|| Error::NoHost { name: setup.host.clone() })
                .and_then(|host| step(host, setup))
        };
        let running: Vec<_> = setups.iter().map(|setup| scope.spawn(move || work(setup))).collect();
        running.into_iter().zip(setups).try_for_each(|(running, setup)| {
            running.join().unwrap_or_else(|_| Err(Error::Gone { host: setup.host.clone() }))
        })
    })
}
