//! Where the kernel's routes lead, and when they may have changed (rtnetlink(7)).
//!
//! Two sockets: one hears of changes, the other asks. What is heard is not read, only that something was: the answer to
//! a question is what counts.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use crate::seam::RouteWatch;
use crate::signal::{Signal, Wake};

/// Links that come and go, routes and rules of both families (`RTMGRP_*` and `RTNLGRP_*` of `linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x40 | 0x80 | 0x400 | (1 << 18);
/// How long changes are gathered before they are told again: a host with many of them shall not do nothing else.
const GATHER: Duration = Duration::from_millis(200);
/// How soon after a change it is told once more, then after twice as long, and so on. What a peer sent to the old address
/// meanwhile, such as a handshake that it repeats (`REKEY_TIMEOUT`, WireGuard paper, section 6.1), has brought that back.
const AGAIN: Duration = Duration::from_millis(500);
/// The longest time between two of those.
const LONGEST: Duration = Duration::from_secs(32);
/// How long the kernel may take for an answer. It answers before the question's call returns.
const PATIENCE: Duration = Duration::from_secs(1);

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_MARK: u16 = 16;
/// `struct nlmsghdr`.
const MESSAGE_HEADER: usize = 16;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// `struct rtattr`.
const ATTRIBUTE_HEADER: usize = 4;

/// The kernel's routing tables, in the network namespace of the thread that opened them.
#[derive(Debug)]
pub(crate) struct KernelRoutes {
    changes: OwnedFd,
    questions: OwnedFd,
    asked: u32,
    has_told: bool,
    /// After how long the last change is told once more.
    again: Option<Duration>,
}

impl KernelRoutes {
    pub(crate) fn open() -> io::Result<Self> {
        let (changes, questions) = (netlink(GROUPS)?, netlink(0)?);
        Ok(Self { changes, questions, asked: 0, has_told: false, again: None })
    }

    /// Takes all changes that are there, and says whether there were any.
    fn take_changes(&self) -> io::Result<bool> {
        let mut any = false;
        loop {
            match recv(&self.changes, &mut [0; 8192][..], RecvFlags::DONTWAIT) {
                // So many that some were lost: there was a change.
                Ok(_) | Err(rustix::io::Errno::NOBUFS) => any = true,
                Err(rustix::io::Errno::AGAIN) => return Ok(any),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl RouteWatch for KernelRoutes {
    fn wait(&mut self, stop: &Signal) -> io::Result<Wake> {
        if std::mem::take(&mut self.has_told)
            && stop.or_readable(stop, Some(GATHER))? != Wake::TimedOut
        {
            return Ok(Wake::Stopped);
        }
        loop {
            match stop.or_readable(&self.changes, self.again)? {
                Wake::Stopped => return Ok(Wake::Stopped),
                Wake::TimedOut => {
                    self.again =
                        self.again.map(|after| after * 2).filter(|after| *after <= LONGEST);
                    return Ok(Wake::Ready);
                }
                Wake::Ready => {}
            }
            if self.take_changes()? {
                self.has_told = true;
                self.again = Some(AGAIN);
                return Ok(Wake::Ready);
            }
        }
    }

    fn interface(&mut self, remote: SocketAddr, source: IpAddr, mark: u32) -> Option<u32> {
        self.asked = self.asked.wrapping_add(1);
        let question = question(self.asked, remote.ip(), source, mark);
        send(&self.questions, &question, SendFlags::empty()).ok()?;
        let never = Signal::new().ok()?;
        let mut answer = [0; 8192];
        loop {
            if never.or_readable(&self.questions, Some(PATIENCE)).ok()? != Wake::Ready {
                return None;
            }
            let (length, _) = recv(&self.questions, &mut answer[..], RecvFlags::DONTWAIT).ok()?;
            let answer = &answer[..length];
            // A late answer to an earlier question is passed over.
            if word(answer, 8)? == self.asked {
                return outgoing_interface(answer);
            }
        }
    }
}

fn netlink(groups: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Without a protocol it is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Asks by which route a packet from this source leaves for this destination (`inet_rtm_getroute`, `net/ipv4/route.c`).
fn question(number: u32, remote: IpAddr, source: IpAddr, mark: u32) -> Vec<u8> {
    let family = if remote.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let bits = if remote.is_ipv4() { 32 } else { 128 };
    let mut message = Vec::with_capacity(96);
    message.extend([0; 4]);
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend([family, bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut attribute = |kind: u16, value: &[u8]| {
        message.extend(((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value);
    };
    for (kind, address) in [(RTA_DST, remote), (RTA_SRC, source)] {
        match address {
            IpAddr::V4(address) => attribute(kind, &address.octets()),
            IpAddr::V6(address) => attribute(kind, &address.octets()),
        }
    }
    attribute(RTA_MARK, &mark.to_ne_bytes());
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// The index of the interface in an answer; `None` if there is no route.
fn outgoing_interface(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    let mut attributes = answer.get(MESSAGE_HEADER + ROUTE_HEADER..)?;
    if kind != RTM_NEWROUTE {
        return None;
    }
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        if kind == RTA_OIF {
            return word(value, 0);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use wireloom_testkit::{in_new_network, ip, need, wait_for_address};

    use super::*;

    fn index(link: &str) -> u32 {
        let list = ip("-o link");
        let line = list.lines().find(|line| line.contains(&format!(": {link}@"))).unwrap();
        line.split(':').next().unwrap().parse().unwrap()
    }

    #[test]
    fn a_route_that_moves_is_told_and_leads_elsewhere() {
        need!(root);
        need!(program "ip");
        in_new_network(|| {
            for (link, last) in [("one", 1), ("two", 2)] {
                ip(&format!("link add {link} type veth peer name {link}-far"));
                ip(&format!("link set {link}-far up"));
                ip(&format!("link set {link} up"));
                ip(&format!("address add 192.0.2.{last}/32 dev {link}"));
                ip(&format!("address add 2001:db8::{last}/128 dev {link} nodad"));
                wait_for_address(&format!("2001:db8::{last}"));
            }
            let mut routes = KernelRoutes::open().unwrap();
            let stop = Signal::new().unwrap();
            for (net, remote, source) in [
                ("198.51.100.0/24", "198.51.100.9:1", "192.0.2.1"),
                ("2001:db8:1::/64", "[2001:db8:1::9]:1", "2001:db8::1"),
            ] {
                let (remote, source): (SocketAddr, IpAddr) =
                    (remote.parse().unwrap(), source.parse().unwrap());
                assert_eq!(routes.interface(remote, source, 0), None);
                for link in ["one", "two"] {
                    ip(&format!("route replace {net} dev {link}"));
                    assert_eq!(routes.wait(&stop).unwrap(), Wake::Ready);
                    assert_eq!(routes.interface(remote, source, 0), Some(index(link)), "{net}");
                }
                let family = if source.is_ipv4() { "-4" } else { "-6" };
                ip(&format!("{family} rule add fwmark 7 unreachable"));
                assert_eq!(routes.interface(remote, source, 7), None, "the mark counts");
            }
            // It is told once more by itself.
            let told = std::time::Instant::now();
            assert_eq!(routes.wait(&stop).unwrap(), Wake::Ready);
            assert_eq!(routes.wait(&stop).unwrap(), Wake::Ready);
            assert!(told.elapsed() < AGAIN * 8);
            stop.raise();
            while routes.wait(&stop).unwrap() != Wake::Stopped {}
        });
    }

    #[test]
    fn answers_that_lie_are_no_route() {
        let mut answer = vec![0; MESSAGE_HEADER + ROUTE_HEADER];
        answer[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        assert_eq!(outgoing_interface(&answer), None);
        for (length, value) in [(8_u16, Some(5)), (0, None), (3, None), (9, None), (7, None)] {
            let mut whole = answer.clone();
            whole.extend(length.to_ne_bytes());
            whole.extend(RTA_OIF.to_ne_bytes());
            whole.extend(5_u32.to_ne_bytes());
            assert_eq!(outgoing_interface(&whole), value, "{length}");
            assert_eq!(outgoing_interface(&whole[..whole.len() - 5]), None);
        }
        assert_eq!(outgoing_interface(&[]), None);
    }
}
