//! Tunnel devices under test, and the traffic between them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use wireloom_lab::{Child, Host};
use wireloom_testkit::promised;

use crate::{Keys, eventually, ok, run, wireloom};

/// The port that a [`Device`] of the first layer listens on.
pub const PORT: u16 = 51820;

/// Starts a device in front, ready for wg.
pub fn tunnel(host: &Host, interface: &str) -> Child {
    let child = wireloom(host, &format!("tunnel -f {interface}"));
    wait_for_device(host, interface);
    child
}

/// Waits until wg reaches a device.
///
/// # Panics
///
/// If it does not soon.
pub fn wait_for_device(host: &Host, interface: &str) {
    eventually("wg finds the device", || {
        run(host, &format!("wg show {interface}")).status.success()
    });
}

/// Writes a WireGuard configuration, or a key, into the host's own `/run` and returns its path.
pub fn configuration(host: &Host, text: &str) -> String {
    let path = "/run/wireloom-test/wg0.conf";
    host.write(path, text).unwrap();
    ok(host, &format!("chmod 600 {path}"));
    path.to_owned()
}

/// A device with a key. In layer L, device N is `wgL`, listens on [`PORT`] + L and has the addresses 10.9.L.N and
/// fd09:L::N inside.
pub struct Device<'a> {
    /// Where it runs.
    pub host: &'a Host,
    /// Its keys.
    pub keys: Keys,
    /// Its process.
    pub process: Child,
    number: u8,
    layer: u8,
}

impl<'a> Device<'a> {
    /// Starts the device of this number in the first layer, without peers.
    pub fn start(host: &'a Host, number: u8) -> Self {
        Self::start_in(host, 0, number)
    }

    /// Starts the device of this number in a layer, without peers.
    pub fn start_in(host: &'a Host, layer: u8, number: u8) -> Self {
        let link = format!("wg{layer}");
        let process = tunnel(host, &link);
        let device = Self { host, keys: Keys::new(), process, number, layer };
        let key = configuration(host, &device.keys.private);
        let port = device.port();
        ok(host, &format!("wg set {link} private-key {key} listen-port {port}"));
        let [v4, v6] = device.inside();
        ok(host, &format!("ip address add {v4}/24 dev {link}"));
        ok(host, &format!("ip address add {v6}/64 dev {link} nodad"));
        ok(host, &format!("ip link set {link} up"));
        device
    }

    fn port(&self) -> u16 {
        PORT + u16::from(self.layer)
    }

    /// Its addresses inside, IPv4 and IPv6.
    pub fn inside(&self) -> [String; 2] {
        let (layer, number) = (self.layer, self.number);
        [format!("10.9.{layer}.{number}"), format!("fd09:{layer}::{number}")]
    }

    /// Its addresses as allowed IPs.
    pub fn allowed_ips(&self) -> String {
        let [v4, v6] = self.inside();
        format!("{v4}/32,{v6}/128")
    }

    /// Sets something of a peer, as `wg set` words it.
    pub fn set(&self, peer: &Self, settings: &str) {
        let (layer, key) = (self.layer, &peer.keys.public);
        ok(self.host, &format!("wg set wg{layer} peer {key} {settings}"));
    }

    /// Makes another device a peer that is dialled at this address.
    pub fn dial(&self, peer: &Self, address: &str) {
        let endpoint = endpoint(address, peer.port());
        self.set(peer, &format!("endpoint {endpoint} allowed-ips {}", peer.allowed_ips()));
    }

    /// Makes another device a peer that dials by itself.
    pub fn await_dial(&self, peer: &Self) {
        self.set(peer, &format!("allowed-ips {}", peer.allowed_ips()));
    }

    /// What `wg show` tells of a peer under this heading.
    ///
    /// # Panics
    ///
    /// If it does not know the peer.
    pub fn show(&self, peer: &Self, heading: &str) -> String {
        let text = ok(self.host, &format!("wg show wg{} {heading}", self.layer));
        let line = text.lines().find_map(|line| line.strip_prefix(&peer.keys.public));
        line.unwrap_or_else(|| panic!("no such peer: {text}")).trim().to_owned()
    }

    /// The endpoint of a peer.
    pub fn endpoint_of(&self, peer: &Self) -> String {
        self.show(peer, "endpoints")
    }

    /// The bytes received from a peer and sent to it.
    pub fn transfer(&self, peer: &Self) -> [u64; 2] {
        let text = self.show(peer, "transfer");
        let mut counts = text.split_ascii_whitespace().map(|count| count.parse().unwrap());
        [counts.next().unwrap(), counts.next().unwrap()]
    }

    /// The seconds of processor time that the device has used.
    pub fn processor_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        // User and system time are the 14th and 15th field of proc_pid_stat(5), in hundredths; the name, the second, may
        // hold blanks.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let ticks = |at| fields.split(' ').nth(at).unwrap().parse::<f64>().unwrap();
        (ticks(11) + ticks(12)) / 100.0
    }
}

/// An address and a port, as wg shows them.
pub fn endpoint(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse::<IpAddr>().unwrap(), port).to_string()
}

/// Runs iperf3 to an address of another host and returns its report.
///
/// # Panics
///
/// If it does not come to its end.
pub fn iperf(from: &Host, to: &Host, address: &str, options: &str) -> Value {
    let mut server = to.spawn("iperf3", ["-s", "-1", "-B", address]).unwrap();
    let deadline = Instant::now() + promised(Duration::from_secs(5));
    loop {
        let client = format!("iperf3 -J -c {address} --connect-timeout 5000 {options}");
        let report: Value = serde_json::from_str(&run(from, &client).stdout).unwrap();
        let Some(error) = report["error"].as_str() else { return report };
        // The server may not listen yet; it says nothing that could be awaited.
        let may_retry = Instant::now() < deadline && !server.has_ended().unwrap();
        assert!(may_retry, "{} to {address}: {error}", from.name());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The rate of a short TCP stream in bits per second.
///
/// # Panics
///
/// If nothing came across.
pub fn stream(from: &Host, to: &Host, address: &str) -> f64 {
    let report = iperf(from, to, address, "-n 32M");
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
    assert!(rate > 0.0, "{report}");
    rate
}

/// Sends short UDP streams until one arrives, but for a hundredth: on a busy machine the receiver itself may lose some.
///
/// # Panics
///
/// If none does soon.
pub fn datagrams(from: &Host, to: &Host, address: &str) {
    eventually("a modest UDP stream arrives", || {
        let report = iperf(from, to, address, "-u -b 50M -n 2M");
        report["end"]["sum"]["lost_percent"].as_f64().is_some_and(|lost| lost < 1.0)
    });
}
