//! Two data planes over real devices and sockets, in network namespaces of their own.

#![allow(clippy::unwrap_used, reason = "a helper that fails, fails its test")]

mod support;

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{config_of, two_ends};
use wireloom_dataplane::{Counter, Dataplane, Ended, Offloads, SetError, StartError, UapiSocket};
use wireloom_io::{BindError, Tun, TunConfig, UdpBinder};
use wireloom_testkit::{need, promised};
use wireloom_tunnel::uapi::SetDevice;

macro_rules! need_namespaces {
    () => {
        need!(root);
        need!(device "/dev/net/tun");
        need!(program "ip");
        need!(program "ping");
    };
}

fn listen_on(port: u16) -> SetDevice {
    SetDevice { listen_port: Some(port), ..SetDevice::default() }
}

#[test]
fn packets_of_both_families_cross_over_either_family() {
    need_namespaces!();
    for is_v4 in [true, false] {
        let (a, b) = two_ends();
        a.add_peer(&b, Some(b.endpoint(is_v4)));
        b.add_peer(&a, None);
        a.pings(&b);
        b.pings(&a);
        let status = b.dataplane.status();
        assert_eq!(status.peers[0].endpoint, Some(a.endpoint(is_v4)), "learnt from the handshake");
        assert!(status.peers[0].rx_bytes > 0 && status.peers[0].last_handshake.is_some());
    }
}

#[test]
fn streams_cross_in_batches_and_without() {
    need_namespaces!();
    need!(program "iperf3");
    let (a, b) = two_ends();
    a.add_peer(&b, Some(b.endpoint(true)));
    b.add_peer(&a, Some(a.endpoint(true)));
    for offloads in [Offloads::ALL, Offloads::NONE] {
        a.dataplane.set_offloads(offloads);
        b.dataplane.set_offloads(offloads);
        assert_eq!(a.dataplane.offloads(), offloads, "what is wanted is in use");
        let before = b.dataplane.counters();
        let mut server = b.host.run(|| {
            let mut server = std::process::Command::new("iperf3")
                .args(["-s", "-1", "--forceflush"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            wait_for_line(server.stdout.take().unwrap(), "listening");
            server
        });
        let (passed, text) = a.host.program("iperf3 -c 10.0.0.2 -n 8M -i 0");
        assert!(passed, "{text}");
        server.wait().unwrap();
        let after = b.dataplane.counters();
        let count = |counter: Counter| after.of(counter) - before.of(counter);
        let per_batch = count(Counter::DatagramsReceived) / count(Counter::BatchesReceived).max(1);
        assert_eq!(per_batch > 4, offloads.gro, "{per_batch} datagrams a batch");
        assert_eq!(count(Counter::DroppedWriting), 0);
    }
}

/// Reads until a line holds the text, and goes on reading behind the test's back, so that the writer never waits.
fn wait_for_line(from: impl std::io::Read + Send + 'static, text: &'static str) {
    use std::io::BufRead as _;
    let (found, is_found) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(from).lines().map_while(Result::ok) {
            if line.contains(text) {
                let _ = found.send(());
            }
        }
    });
    is_found.recv_timeout(Duration::from_secs(10)).unwrap();
}

#[test]
fn a_new_listen_port_keeps_peers_and_sessions() {
    need_namespaces!();
    let (a, b) = two_ends();
    a.add_peer(&b, Some(b.endpoint(true)));
    b.add_peer(&a, None);
    a.pings(&b);
    let handshake = || a.dataplane.status().peers[0].last_handshake.unwrap();
    let first = handshake();
    let old = a.dataplane.port();
    a.dataplane.set(&listen_on(0)).unwrap();
    assert_ne!(a.dataplane.port(), old);
    a.pings(&b);
    // The same moment, but for how far the two clocks are read apart.
    let same = promised(Duration::from_millis(20));
    assert!(handshake().abs_diff(first) < same, "the session is the same");
    assert_eq!(b.dataplane.status().peers[0].endpoint, Some(a.endpoint(true)), "it has roamed");
    // The old port is free again, a taken one is refused and changes nothing.
    a.dataplane.set(&listen_on(old)).unwrap();
    let holder = a.host.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    let taken = holder.local_addr().unwrap().port();
    let change = SetDevice { fwmark: Some(0x77), ..listen_on(taken) };
    let refused = a.dataplane.set(&change).unwrap_err();
    assert!(matches!(refused, SetError::Bind(BindError::PortInUse { port, .. }) if port == taken));
    let status = a.dataplane.status();
    assert_eq!((status.listen_port, status.fwmark), (old, 0));
    a.pings(&b);
}

#[test]
fn a_mark_is_set_while_packets_flow() {
    need_namespaces!();
    let (a, b) = two_ends();
    a.add_peer(&b, Some(b.endpoint(true)));
    b.add_peer(&a, None);
    a.pings(&b);
    // Marked packets have no route from here on, so nothing but the mark can make the difference.
    a.host.ip("rule add fwmark 0x77 unreachable");
    a.pings(&b);
    a.dataplane.set(&SetDevice { fwmark: Some(0x77), ..SetDevice::default() }).unwrap();
    assert_eq!(a.dataplane.status().fwmark, 0x77);
    let (replied, _) = a.host.program("ping -c 1 -W 1 10.0.0.2");
    assert!(!replied);
    assert!(a.dataplane.counters().of(Counter::DroppedSending) > 0);
    a.dataplane.set(&SetDevice { fwmark: Some(0), ..SetDevice::default() }).unwrap();
    a.pings(&b);
}

#[test]
fn senders_are_told_of_addresses_that_nobody_has() {
    need_namespaces!();
    let (a, _) = two_ends();
    for target in ["10.0.0.9", "fd00::9"] {
        let asked = Instant::now();
        let (replied, text) = a.host.program(&format!("ping -c 1 -W 5 {target}"));
        assert!(!replied && text.contains("nreachable"), "{text}");
        assert!(asked.elapsed() < Duration::from_secs(4), "at once, not by waiting");
    }
    assert_eq!(a.dataplane.counters().of(Counter::Refusals), 2);
}

#[test]
fn a_deleted_device_ends_the_data_plane_and_says_so() {
    need_namespaces!();
    let (a, _) = two_ends();
    assert_eq!(a.dataplane.ended(), None);
    a.host.ip("link delete wl0");
    assert_eq!(a.dataplane.wait(), Ended::DeviceGone);
    let refused = a.dataplane.set(&listen_on(0)).unwrap_err();
    assert!(matches!(refused, SetError::Ended(Ended::DeviceGone)), "{refused}");
}

#[test]
fn stopping_takes_no_time_and_leaves_nothing() {
    need_namespaces!();
    let (a, b) = two_ends();
    a.add_peer(&b, Some(b.endpoint(true)));
    let port = a.dataplane.port();
    let asked = Instant::now();
    a.dataplane.stop();
    let limit = promised(Duration::from_millis(500));
    assert!(asked.elapsed() < limit, "{:?}", asked.elapsed());
    assert_eq!(a.dataplane.wait(), Ended::Stopped);
    // Whoever goes on with the device may bind it at once.
    a.host.run(move || std::net::UdpSocket::bind(("0.0.0.0", port)).unwrap());
    let support::End { host, dataplane, .. } = a;
    assert!(Arc::into_inner(dataplane).is_some(), "nobody else holds it");
    let (exists, _) = host.program("ip link show wl0");
    assert!(!exists, "the device goes with its data plane");
}

#[test]
fn a_taken_port_is_named_at_the_start() {
    need_namespaces!();
    let (a, _) = two_ends();
    let port = a.dataplane.port();
    let error = a.host.run(move || {
        let queues = NonZeroUsize::MIN;
        let tun = Tun::create(&TunConfig { name: "wl1".to_owned(), mtu: 1420, queues }).unwrap();
        let mut config = config_of(3);
        config.listen_port = port;
        Dataplane::start(Arc::new(tun), UdpBinder::new(), config).unwrap_err()
    });
    assert!(matches!(error, StartError::Bind(BindError::PortInUse { .. })), "{error}");
}

#[test]
fn wg_configures_and_shows_the_device() {
    need_namespaces!();
    need!(program "wg");
    let (a, b) = two_ends();
    // wg knows one directory only, so this name must be nobody else's.
    let name = format!("wlt{}", std::process::id());
    let directory = std::path::Path::new(wireloom_dataplane::uapi_socket::DIRECTORY);
    let socket = UapiSocket::bind(directory, &name, Arc::clone(&a.dataplane)).unwrap();
    // First, or the handshake that the keepalive starts at once meets nobody, and the next is five seconds away.
    b.add_peer(&a, None);
    let (set, text) = a.host.program(&format!(
        "wg set {name} peer {} endpoint {} allowed-ips 10.0.0.2/32,fd00::2/128 persistent-keepalive 21",
        b.key,
        b.endpoint(true)
    ));
    assert!(set, "{text}");
    a.pings(&b);
    let (shown, text) = a.host.program(&format!("wg show {name} dump"));
    assert!(shown, "{text}");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines[0][1], a.key.to_string());
    assert_eq!(lines[0][2], a.dataplane.port().to_string());
    assert_eq!(lines[1][0], b.key.to_string());
    assert_eq!(lines[1][2], b.endpoint(true).to_string());
    assert_eq!(lines[1][3], "10.0.0.2/32,fd00::2/128");
    assert_ne!(lines[1][4], "0", "the time of the handshake");
    assert_eq!(lines[1][7], "21");
    let (set, text) = a.host.program(&format!("wg set {name} peer {} remove", b.key));
    assert!(set, "{text}");
    assert!(a.dataplane.status().peers.is_empty());
    drop(socket);
    assert!(!wireloom_dataplane::uapi_socket::path(directory, &name).exists());
}
