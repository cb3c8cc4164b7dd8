//! What the machine itself is like: its kernel, its clock, and what this process may do.

use super::super::facts::{Facts, TUN};
use super::super::{Check, Finding};
use super::{Error, Note, Warning, finding};

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let lacking = facts.lacking.iter().map(|feature| {
        let what = format!("this kernel has no {feature}");
        finding(Note, Check::Kernel, what, "some ways to run a mesh need it", feature.remedy())
    });
    let old = facts.kernel.filter(|version| *version < USO).map(|(major, minor)| {
        finding(
            Note,
            Check::Kernel,
            format!("Linux {major}.{minor} does not merge UDP on a TUN device"),
            "UDP inside the tunnel, QUIC for one, moves packet by packet and costs more time",
            format!("run Linux {}.{} or newer", USO.0, USO.1),
        )
    });
    lacking.chain(old).collect()
}

/// The first Linux with `TUN_F_USO4` and `TUN_F_USO6` (`linux/if_tun.h`).
pub(super) const USO: (u32, u32) = (6, 2);

pub(super) fn tun(facts: &Facts) -> Vec<Finding> {
    let found = facts.no_tun.iter().map(|reason| {
        finding(
            Error,
            Check::Tun,
            format!("{TUN} can't be opened: {reason}"),
            "the tunnel is a TUN device",
            format!(
                "as root: modprobe tun; in a container, hand it in (docker run --device {TUN} --cap-add NET_ADMIN)"
            ),
        )
    });
    found.collect()
}

pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    let why = "a peer takes no handshake that is older than the last one it saw, so after a step back of the \
        clock nobody answers";
    let set = "set the clock and keep it right: timedatectl set-ntp true";
    if facts.now < facts.subject.made {
        let behind = facts.subject.made - facts.now;
        let what = format!("the clock is {} before this program was made", days(behind));
        return vec![finding(Error, Check::Clock, what, why, set)];
    }
    let ahead = facts.last_written.iter().filter_map(|(path, written)| {
        let ahead = written.checked_sub(facts.now).filter(|ahead| *ahead > TOLERANCE)?;
        let what =
            format!("{} was written {} after now by this clock", path.display(), days(ahead));
        Some(finding(Warning, Check::Clock, what, why, set))
    });
    ahead.collect()
}

/// How far files may lie ahead of the clock, in seconds.
const TOLERANCE: u64 = 60;

fn days(seconds: u64) -> String {
    match seconds / 86_400 {
        0 => format!("{seconds} s"),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

pub(super) fn buffers(facts: &Facts) -> Vec<Finding> {
    let wanted = facts.subject.udp_buffer;
    let small = facts.udp_buffer.filter(|got| *got < wanted).map(|got| {
        finding(
            Warning,
            Check::Buffers,
            format!("a UDP socket gets a buffer of {got} bytes and not the {wanted} that the tunnel asks for"),
            "bursts that do not fit are lost, and TCP in the tunnel slows down",
            format!("sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}"),
        )
    });
    small.into_iter().collect()
}

pub(super) fn privilege(facts: &Facts) -> Vec<Finding> {
    if facts.is_root {
        return facts.incapable.iter().map(incapable).collect();
    }
    vec![finding(
        Note,
        Check::Privilege,
        "this was not run as root",
        "the kernel does not show everything to others, so more may be wrong",
        "sudo wireloom doctor",
    )]
}

fn incapable(capability: &&'static str) -> Finding {
    let why = match *capability {
        "NET_RAW" => {
            "the agent measures by echoes what paths carry, and takes what their links say without it"
        }
        _ => "the agent makes links, addresses and routes",
    };
    let remedy = format!(
        "give it to the container: securityContext.capabilities.add: [{capability}], as deploy/base/daemonset.yaml does"
    );
    let severity = if *capability == "NET_RAW" { Warning } else { Error };
    let what = format!("this process lacks the capability {capability}");
    finding(severity, Check::Privilege, what, why, remedy)
}
