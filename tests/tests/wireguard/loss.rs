//! A wire that loses and reorders.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wireloom_lab::Host;
use wireloom_tests::device::{Device, iperf};
use wireloom_tests::{Pair, ping};

use crate::need_all;

/// Passes datagrams between whoever sends to its port and the device of its own host. Of those that go each way it loses
/// every tenth and lets every seventh be overtaken by three others, but for the first few, which begin the session.
struct BadWire {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BadWire {
    fn start(host: &Host, port: u16, device: u16) -> Self {
        let bind = move |port| host.run(move || UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let (outside, inside) = (bind(port).unwrap(), bind(0).unwrap());
        inside.connect(("127.0.0.1", device)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || pass(&outside, &inside, &stopped));
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for BadWire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// One direction's faults.
#[derive(Default)]
struct Faults {
    /// Seen so far.
    count: u64,
    /// A simple generator, so that faults meet all kinds of messages.
    state: u64,
    /// Held back until the count is reached.
    held: VecDeque<(u64, Vec<u8>)>,
}

impl Faults {
    fn draw(&mut self) -> u64 {
        // Knuth's multiplier for 64 bits (MMIX).
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.state >> 33
    }

    fn pass(&mut self, datagram: &[u8], mut send: impl FnMut(&[u8])) {
        self.count += 1;
        let lost = self.draw().is_multiple_of(10);
        if self.count > 5 && lost {
        } else if self.count > 5 && self.draw().is_multiple_of(7) {
            self.held.push_back((self.count + 3, datagram.to_vec()));
        } else {
            send(datagram);
        }
        while let Some((_, held)) = self.held.pop_front_if(|(at, _)| *at <= self.count) {
            send(&held);
        }
    }
}

fn pass(outside: &UdpSocket, inside: &UdpSocket, stop: &AtomicBool) {
    let far = std::sync::Mutex::new(None::<SocketAddr>);
    for socket in [outside, inside] {
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut faults, mut buffer) = (Faults::default(), [0; 2048]);
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = outside.recv_from(&mut buffer) else { continue };
                *far.lock().unwrap() = Some(from);
                faults.pass(&buffer[..length], |datagram| drop(inside.send(datagram)));
            }
        });
        let (mut faults, mut buffer) = (Faults::default(), [0; 2048]);
        while !stop.load(Ordering::Relaxed) {
            let Ok(length) = inside.recv(&mut buffer) else { continue };
            let Some(to) = *far.lock().unwrap() else { continue };
            faults.pass(&buffer[..length], |datagram| drop(outside.send_to(datagram, to)));
        }
    });
}

#[test]
fn a_wire_that_loses_and_reorders_makes_no_gap_and_no_handshake() {
    need_all!();
    let pair = Pair::start();
    let (a, b) = (Device::start(&pair.a, 1), Device::start(&pair.b, 2));
    let _wire = BadWire::start(&pair.b, 7000, 51820);
    a.dial(&b, "192.0.2.2");
    a.set(&b, "endpoint 192.0.2.2:7000");
    b.await_dial(&a);
    ping(&pair.a, "10.9.0.2");
    let handshakes = || (a.show(&b, "latest-handshakes"), b.show(&a, "latest-handshakes"));
    let before = handshakes();
    let flood = pair.a.spawn("ping", "-n -D -i 0.005 -w 20 10.9.0.2".split(' ')).unwrap();
    let report = iperf(&pair.a, &pair.b, "10.9.0.2", "-t 12 -b 50M");
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
    let echoes = flood.wait(Duration::from_secs(30)).unwrap().stdout;
    let sent = echoes.lines().find_map(|line| line.split_once(" packets transmitted")).unwrap().0;
    let sent: f64 = sent.parse().unwrap();
    // `[1764056400.123456] 64 bytes from ...`
    let times: Vec<f64> = echoes
        .lines()
        .filter(|line| line.contains("bytes from"))
        .filter_map(|line| line.strip_prefix('[')?.split_once(']')?.0.parse().ok())
        .collect();
    let lost = 1.0 - times.len() as f64 / sent;
    let gap = times.windows(2).map(|two| two[1] - two[0]).fold(0.0, f64::max);
    println!(
        "TCP {:.0} Mbit/s; of {sent} echoes {:.1} % lost, the longest gap {gap:.2} s",
        rate / 1e6,
        lost * 100.0
    );
    // Both ways lose a tenth, which makes 19 %. What the tunnel lost beside would be what it takes for too late.
    assert!((0.16..0.24).contains(&lost), "{lost}");
    assert!(gap < 5.0, "{gap} s");
    assert_eq!(a.endpoint_of(&b), "192.0.2.2:7000", "all went by the bad wire");
    assert_eq!(handshakes(), before, "nobody took the loss for the session's end");
}
