//! Two machines on one wire, and a device on each: ours on the near one, another implementation's on the far one.

use std::time::{Duration, Instant};

use wireloom_lab::{Child, Host};
use wireloom_testkit::{Vm, wireloom_binary};
use wireloom_tests::{Keys, Pair, eventually};

use crate::peer::{Engine, Peer};

/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(200);

/// Where commands run.
pub(crate) enum Machine {
    Host(Host),
    Vm(Vm),
}

impl Machine {
    /// Runs a shell script; says whether it succeeded, and what it wrote.
    pub(crate) fn run(&self, script: &str) -> (bool, String) {
        match self {
            Self::Host(host) => {
                let output = host.exec("sh", ["-c", script], COMMAND).unwrap();
                (output.status.success(), output.stdout + &output.stderr)
            }
            Self::Vm(vm) => {
                let output = vm.run(script);
                (output.status == 0, output.stdout + &output.stderr)
            }
        }
    }

    /// Runs a shell script that must succeed.
    pub(crate) fn ok(&self, script: &str) -> String {
        let (success, text) = self.run(script);
        assert!(success, "{script}: {text}");
        text
    }

    /// Runs a shell script that must succeed, and may take minutes, while other scripts run.
    pub(crate) fn ok_at_length(&self, script: &str) -> String {
        let Self::Vm(vm) = self else { return self.ok(script) };
        vm.ok(&format!(
            "({{ {script}; }} > /run/long 2>&1; echo $? > /run/status) > /dev/null 2>&1 &"
        ));
        let deadline = Instant::now() + COMMAND;
        while vm.run("test -s /run/status").status != 0 {
            assert!(Instant::now() < deadline, "not within {COMMAND:?}: {script}");
            std::thread::sleep(Duration::from_secs(1));
        }
        vm.ok("cat /run/long; exit $(cat /run/status)")
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &'static str, content: Vec<u8>) {
        match self {
            Self::Host(host) => {
                host.run(move || std::fs::write(path, content).unwrap()).unwrap();
            }
            Self::Vm(vm) => vm.write(path, content),
        }
    }
}

/// Both machines. The near one has 192.0.2.1 and 2001:db8::1, the far one 192.0.2.2 and 2001:db8::2.
pub(crate) struct Ends {
    pub(crate) near: Machine,
    pub(crate) far: Machine,
    peer: Peer,
}

impl Ends {
    pub(crate) fn start(peer: Peer) -> Self {
        if peer.program().is_some() {
            let Pair { a, b } = Pair::start();
            return Self { near: Machine::Host(a), far: Machine::Host(b), peer };
        }
        let near = Host::start("near").unwrap();
        let vm = near.run(|| Vm::boot(&["eth0"], &["ip", "nft", "ping", "wg"])).unwrap();
        let ends = Self { near: Machine::Host(near), far: Machine::Vm(vm), peer };
        for (machine, last) in [(&ends.near, 1), (&ends.far, 2)] {
            machine.ok(&format!(
                "ip link set lo up; ip link set eth0 up
                 ip address add 192.0.2.{last}/24 dev eth0
                 ip address add 2001:db8::{last}/64 dev eth0 nodad"
            ));
        }
        ends
    }

    /// Starts a device on each, in the layer of this number, each with a key.
    pub(crate) fn devices(&self, engine: Engine, layer: u8) -> Devices<'_> {
        let link = format!("wg{layer}");
        let Machine::Host(near) = &self.near else { unreachable!("the near machine is a host") };
        let arguments = ["tunnel", "--engine", engine.name(), "-f", &link];
        let mut processes = vec![near.spawn(wireloom_binary(), arguments).unwrap()];
        match (&self.far, self.peer.command(&link)) {
            (Machine::Host(far), Some((program, arguments))) => {
                processes.push(far.spawn(program, arguments).unwrap());
            }
            (far, _) => drop(far.ok(&format!("ip link add {link} type wireguard"))),
        }
        let keys = [Keys::new(), Keys::new()];
        for (machine, number) in [(&self.near, 1), (&self.far, 2)] {
            eventually("wg finds the device", || machine.run(&format!("wg show {link}")).0);
            machine.write("/run/key", keys[number - 1].private.clone().into());
            machine.ok(&format!(
                "wg set {link} private-key /run/key listen-port {}
                 ip address add 10.9.{layer}.{number}/24 dev {link}
                 ip address add fd09:{layer}::{number}/64 dev {link} nodad
                 ip link set {link} mtu 1420 up",
                port(layer)
            ));
        }
        Devices { ends: self, layer, keys, processes }
    }
}

/// The port that devices of a layer listen on.
pub(crate) fn port(layer: u8) -> u16 {
    51820 + u16::from(layer)
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Far,
    Near,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Near, Self::Far];

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Far => Self::Near,
            Self::Near => Self::Far,
        }
    }

    /// The last part of its addresses.
    pub(crate) const fn number(self) -> usize {
        match self {
            Self::Far => 2,
            Self::Near => 1,
        }
    }
}

/// A device on each machine. Dropping it ends ours, and theirs where it is a program.
pub(crate) struct Devices<'a> {
    ends: &'a Ends,
    layer: u8,
    keys: [Keys; 2],
    processes: Vec<Child>,
}

impl Devices<'_> {
    /// One of the machines.
    pub(crate) const fn machine(&self, side: Side) -> &Machine {
        match side {
            Side::Far => &self.ends.far,
            Side::Near => &self.ends.near,
        }
    }

    /// The addresses of a side inside, IPv4 and IPv6.
    pub(crate) fn inside(&self, side: Side) -> [String; 2] {
        let (layer, number) = (self.layer, side.number());
        [format!("10.9.{layer}.{number}"), format!("fd09:{layer}::{number}")]
    }

    /// Makes the two strangers again.
    pub(crate) fn part(&self) {
        for side in Side::BOTH {
            self.set(side, "remove");
        }
    }

    /// Makes the two peers. The one that dials is told this address of the other; only it can begin. Of more settings, as
    /// `wg set` words them, the first are for both, the second for the one that dials. All are made at once: not every
    /// implementation changes a peer that it has.
    pub(crate) fn join(&self, dials: Side, address: &str, both: &str, dialling: &str) {
        for side in [dials.other(), dials] {
            let [v4, v6] = self.inside(side.other());
            let mut settings = format!("allowed-ips {v4}/32,{v6}/128 {both}");
            if side == dials {
                settings += &format!(" endpoint {} {dialling}", self.endpoint(address));
            }
            self.set(side, &settings);
        }
    }

    /// Gives both sides a new preshared key, and returns the setting for it.
    pub(crate) fn preshared_key(&self) -> &'static str {
        let key = Keys::new().private;
        for side in Side::BOTH {
            self.machine(side).write("/run/preshared", key.clone().into());
        }
        "preshared-key /run/preshared"
    }

    /// An address with the devices' port.
    pub(crate) fn endpoint(&self, address: &str) -> String {
        wireloom_tests::device::endpoint(address, port(self.layer))
    }

    /// Sets something of a side's peer, as `wg set` words it.
    pub(crate) fn set(&self, side: Side, settings: &str) {
        let (layer, key) = (self.layer, &self.keys[side.other().number() - 1].public);
        self.machine(side).ok(&format!("wg set wg{layer} peer {key} {settings}"));
    }

    /// What `wg show` tells of a side's peer under this heading.
    pub(crate) fn show(&self, side: Side, heading: &str) -> String {
        let text = self.machine(side).ok(&format!("wg show wg{} {heading}", self.layer));
        let key = &self.keys[side.other().number() - 1].public;
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no such peer: {text}")).trim().to_owned()
    }

    /// When a side last shook hands, in seconds since 1970 by its own clock; 0 for never.
    pub(crate) fn handshake(&self, side: Side) -> u64 {
        self.show(side, "latest-handshakes").parse().unwrap()
    }

    /// The bytes that a side has received, and sent.
    pub(crate) fn transfer(&self, side: Side) -> [u64; 2] {
        let text = self.show(side, "transfer");
        let mut counts = text.split_ascii_whitespace().map(|count| count.parse().unwrap());
        [counts.next().unwrap(), counts.next().unwrap()]
    }

    /// Sends echo requests inside, from a side to the other, until one is answered.
    pub(crate) fn reach(&self, from: Side, family: usize) {
        let to = &self.inside(from.other())[family];
        eventually(&format!("{from:?} reaches {to}"), || {
            self.machine(from).run(&format!("ping -n -c 1 -W 1 {to}")).0
        });
    }
}

impl Drop for Devices<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (device, name) in self.processes.iter().zip(["ours", "theirs"]) {
                eprintln!("{name} wrote: {:?}", device.written());
            }
        } else if let Machine::Vm(vm) = &self.ends.far {
            // A program's device goes with it.
            vm.run(&format!("ip link delete wg{}", self.layer));
        }
    }
}

/// The address of a side outside, IPv4 or IPv6.
pub(crate) fn outside(side: Side, family: usize) -> String {
    let number = side.number();
    [format!("192.0.2.{number}"), format!("2001:db8::{number}")][family].clone()
}

/// Runs a line on our own machine, for what only a [`Host`] can do.
pub(crate) fn near_host(ends: &Ends) -> &Host {
    match &ends.near {
        Machine::Host(host) => host,
        Machine::Vm(_) => unreachable!("the near machine is a host"),
    }
}
