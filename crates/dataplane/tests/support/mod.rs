//! Hosts in network namespaces of their own, joined by a wire, each with a tunnel.

#![allow(dead_code, reason = "each test file uses its part")]

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;

use wireloom_dataplane::{Config, Dataplane, Offloads};
use wireloom_io::{Tun, TunConfig, UdpBinder};
use wireloom_model::{PrivateKey, PublicKey};
use wireloom_testkit::{in_new_network, ip};
use wireloom_tunnel::EngineKind;
use wireloom_tunnel::uapi::{SetDevice, SetPeer};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, which goes with the last thread and socket in it.
pub(crate) struct Host {
    jobs: mpsc::Sender<Job>,
    /// The namespace's file.
    path: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || in_new_network(|| queue.into_iter().for_each(|job| job())));
        let mut host = Self { jobs, path: String::new() };
        host.path = host.run(|| {
            // Addresses that the kernel makes by itself only add noise.
            std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1").unwrap();
            ip("link set lo up");
            let thread = std::fs::read_link("/proc/thread-self").unwrap();
            format!("/proc/{}/ns/net", thread.display())
        });
        host
    }

    /// Runs something in the namespace and returns what it returns.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        self.jobs
            .send(Box::new(move || {
                let _ = sender.send(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
            }))
            .unwrap();
        result.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments))
    }

    /// Runs a program in the namespace and returns whether it succeeded, with what it printed.
    pub(crate) fn program(&self, line: &str) -> (bool, String) {
        let line = line.to_owned();
        self.run(move || {
            let mut words = line.split_whitespace();
            let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
            let text = [output.stdout, output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        })
    }
}

/// A host with a tunnel device.
pub(crate) struct End {
    pub(crate) host: Host,
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) key: PublicKey,
    number: u8,
}

impl End {
    /// End 1 or 2: 192.0.2.N and 2001:db8::N on the wire, 10.0.0.N and fd00::N in the tunnel.
    fn new(host: Host, number: u8, queues: NonZeroUsize) -> Self {
        let private_key = PrivateKey::from_random([number; 32]);
        let key = private_key.public_key();
        let dataplane = host.run(move || {
            let config = TunConfig { name: "wl0".to_owned(), mtu: 1420, queues };
            let tun = Tun::create(&config).unwrap();
            ip(&format!("address add 10.0.0.{number}/24 dev wl0"));
            ip("link set wl0 up");
            ip(&format!("address add fd00::{number}/64 dev wl0 nodad"));
            Dataplane::start(Arc::new(tun), UdpBinder::new(), config_of(number)).unwrap()
        });
        let own = SetDevice { private_key: Some(Some(private_key)), ..SetDevice::default() };
        dataplane.set(&own).unwrap();
        Self { host, dataplane: Arc::new(dataplane), key, number }
    }

    /// Where the other end reaches this one.
    pub(crate) fn endpoint(&self, is_v4: bool) -> SocketAddr {
        let address: IpAddr = if is_v4 {
            [192, 0, 2, self.number].into()
        } else {
            format!("2001:db8::{}", self.number).parse().unwrap()
        };
        (address, self.dataplane.port()).into()
    }

    /// The other end as a peer of this one, with the networks behind it.
    pub(crate) fn add_peer(&self, other: &Self, endpoint: Option<SocketAddr>) {
        let mut peer = SetPeer::new(other.key);
        peer.endpoint = endpoint;
        peer.replace_allowed_ips = true;
        let number = other.number;
        let own = [format!("10.0.0.{number}/32"), format!("fd00::{number}/128")];
        let behind = [format!("10.{number}.0.0/16"), format!("fd0{number}::/64")];
        peer.allowed_ips =
            own.iter().chain(&behind).map(|prefix| prefix.parse().unwrap()).collect();
        self.dataplane.set(&SetDevice { peers: vec![peer], ..SetDevice::default() }).unwrap();
    }

    /// Pings the other end through the tunnel, both families.
    pub(crate) fn pings(&self, other: &Self) {
        for target in [format!("10.0.0.{}", other.number), format!("fd00::{}", other.number)] {
            let (replied, text) = self.host.program(&format!("ping -c 3 -i 0.05 -W 5 {target}"));
            assert!(replied && text.contains(" 0% packet loss"), "{text}");
        }
    }
}

pub(crate) fn config_of(number: u8) -> Config {
    let seed = [number; 32];
    let engine = EngineKind::default();
    Config { seed, listen_port: 0, fwmark: 0, offloads: Offloads::ALL, engine }
}

/// Two ends, joined by a wire, that do not know of each other yet.
pub(crate) fn two_ends() -> (End, End) {
    two_ends_with(NonZeroUsize::MIN)
}

/// The same; the devices have this many queues.
pub(crate) fn two_ends_with(queues: NonZeroUsize) -> (End, End) {
    let (a, b) = (Host::new(), Host::new());
    a.ip("link add eth0 type veth peer name eth1");
    a.ip(&format!("link set eth1 netns {}", b.path));
    b.ip("link set eth1 name eth0");
    for (host, number) in [(&a, 1), (&b, 2)] {
        host.ip("link set eth0 up");
        host.ip(&format!("address add 192.0.2.{number}/24 dev eth0"));
        host.ip(&format!("address add 2001:db8::{number}/64 dev eth0 nodad"));
    }
    (End::new(a, 1, queues), End::new(b, 2, queues))
}
