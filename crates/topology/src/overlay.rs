//! Each node's own address in the overlay, one per family, for life.
//!
//! A configured address beats one that is held already, and that beats one hashed from the node's name. Of two equal
//! claims the older node's stands, and the other node rehashes.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wireloom_model::{Cidr, Family, Mesh, Node, Problem, ProblemKind, Subject};

use crate::rendezvous::{Purpose, hash};
use crate::resolve::Resolved;

/// How often an address that is taken is hashed again before its neighbours are tried in turn.
const REHASHES: u32 = 32;

/// The addresses of a node: IPv4, IPv6.
pub(crate) type Pair = [Option<IpAddr>; 2];

/// The addresses of a range that nodes may have: all but the first, which names the network (in IPv6 it is every
/// router's, RFC 4291, section 2.6.1), and in IPv4 the last, which is everybody's (RFC 919).
#[derive(Debug, Clone, Copy)]
struct Pool {
    range: Cidr,
    first: u128,
    last: u128,
}

/// Gives every member its overlay addresses.
pub(crate) fn assign(mesh: &Mesh, resolved: &mut Resolved<'_>) -> Vec<Pair> {
    let nodes: Vec<&Node> = resolved.members.iter().map(|member| member.node).collect();
    let mut addresses = vec![[None; 2]; nodes.len()];
    let mut by_age: Vec<usize> = (0..nodes.len()).collect();
    by_age.sort_by_key(|&at| (nodes[at].since, at));
    for (slot, family) in Family::BOTH.into_iter().enumerate() {
        misplaced(mesh, &nodes, family, &mut resolved.problems);
        let Some(range) = mesh.overlay.range(family) else { continue };
        let given = Pool::of(range).give(&nodes, &by_age, &mut resolved.problems);
        for (pair, address) in addresses.iter_mut().zip(given) {
            pair[slot] = address;
        }
    }
    addresses
}

/// Reports configured addresses that nobody can be given.
fn misplaced(mesh: &Mesh, nodes: &[&Node], family: Family, problems: &mut Vec<Problem>) {
    let pool = mesh.overlay.range(family).map(Pool::of);
    for node in nodes {
        let configured = node.overlay_addresses.iter().filter(|a| Family::of(**a) == family);
        for (at, address) in configured.enumerate() {
            let (kind, reason) = match pool {
                None => (ProblemKind::OverlayRange, format!("the overlay has no {family} range")),
                Some(pool) if pool.number(*address).is_none() => (
                    ProblemKind::OverlayRange,
                    format!("it is no host's address in the overlay range {}", pool.range),
                ),
                Some(_) if at > 0 => {
                    (ProblemKind::Invalid, format!("a node has one {family} overlay address"))
                }
                Some(_) => continue,
            };
            problems.push(Problem::error(
                Subject::Node(node.name.clone()),
                kind,
                format!("its overlay address {address} is left out: {reason}"),
            ));
        }
    }
}

impl Pool {
    fn of(range: Cidr) -> Self {
        let bits = range.family().bits();
        let base = to_number(range.address());
        let hosts =
            1u128.checked_shl(u32::from(bits - range.length())).map_or(u128::MAX, |n| n - 1);
        let last = base | hosts;
        Self { range, first: base + 1, last: if bits == 32 { last - 1 } else { last } }
    }

    /// The number of an address that may be given out.
    fn number(&self, address: IpAddr) -> Option<u128> {
        let same = Family::of(address) == self.range.family();
        let number = to_number(address);
        (same && (self.first..=self.last).contains(&number)).then_some(number)
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.range.family() {
            // Every number of an IPv4 pool has 32 bits.
            Family::V4 => Ipv4Addr::from(number as u32).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        }
    }

    /// The first address among these that may be given out.
    fn pick(&self, addresses: &[IpAddr]) -> Option<u128> {
        addresses.iter().find_map(|address| self.number(*address))
    }

    /// One address for each node while there are any.
    fn give(
        &self,
        nodes: &[&Node],
        by_age: &[usize],
        problems: &mut Vec<Problem>,
    ) -> Vec<Option<IpAddr>> {
        let mut taken: BTreeMap<u128, usize> = BTreeMap::new();
        let mut given: Vec<Option<IpAddr>> = vec![None; nodes.len()];
        let claims: [fn(&Node) -> &[IpAddr]; 2] =
            [|node| &node.overlay_addresses, |node| &node.held.overlay_addresses];
        for (round, claim) in claims.into_iter().enumerate() {
            for &at in by_age {
                if given[at].is_some() {
                    continue;
                }
                let Some(number) = self.pick(claim(nodes[at])) else { continue };
                let holder = *taken.entry(number).or_insert(at);
                if holder == at {
                    given[at] = Some(self.address(number));
                } else {
                    clash(nodes[holder], nodes[at], self.address(number), round == 0, problems);
                }
            }
        }
        for &at in by_age.iter() {
            if given[at].is_some() {
                continue;
            }
            match self.free(nodes[at], &taken) {
                Some(number) => {
                    taken.insert(number, at);
                    given[at] = Some(self.address(number));
                }
                None => problems.push(Problem::error(
                    Subject::Node(nodes[at].name.clone()),
                    ProblemKind::OverlayExhausted,
                    format!(
                        "no address is left for it in the overlay range {}; widen it",
                        self.range
                    ),
                )),
            }
        }
        given
    }

    /// The first free number by hash, or else the next free one behind the last hash.
    fn free(&self, node: &Node, taken: &BTreeMap<u128, usize>) -> Option<u128> {
        let count = self.last - self.first + 1;
        if taken.len() as u128 >= count {
            return None;
        }
        let mut number = self.first;
        for attempt in 0..REHASHES {
            number = self.first + self.offset(node, attempt) % count;
            if !taken.contains_key(&number) {
                return Some(number);
            }
        }
        let run = |from: u128| {
            let mut next = from;
            for used in taken.range(from..).map(|(used, _)| *used) {
                if used != next {
                    break;
                }
                next += 1;
            }
            (next <= self.last).then_some(next)
        };
        run(number).or_else(|| run(self.first))
    }

    /// The frozen hash of a node's name, 128 bits of it.
    fn offset(&self, node: &Node, attempt: u32) -> u128 {
        let half = |half: u8| {
            let parts: [&[u8]; 3] =
                [node.name.as_str().as_bytes(), &attempt.to_le_bytes(), &[half]];
            u128::from(hash(Purpose::Overlay, &parts))
        };
        half(0) << 64 | half(1)
    }
}

fn clash(
    holder: &Node,
    loser: &Node,
    address: IpAddr,
    configured: bool,
    problems: &mut Vec<Problem>,
) {
    let outcome =
        if configured { "it gets another; configure one that is free" } else { "it gets another" };
    let message = if configured {
        Problem::error
    } else {
        // Two that joined at once: publishing what each then holds settles it.
        Problem::warning
    };
    problems.push(message(
        Subject::Node(loser.name.clone()),
        ProblemKind::DuplicateAddress,
        format!("its overlay address {address} is node {}'s: {outcome}", holder.name),
    ));
    problems.push(Problem::warning(
        Subject::Node(holder.name.clone()),
        ProblemKind::DuplicateAddress,
        format!("node {} claims its overlay address {address} too, and gets another", loser.name),
    ));
}

fn to_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

#[cfg(test)]
mod tests {
    use wireloom_model::PublicKey;

    use super::*;

    fn node(name: &str, since: u64) -> Node {
        let key = PublicKey::from_bytes([1; 32]);
        let mut node = Node::new(name.parse().unwrap(), key, "here".parse().unwrap());
        node.since = since;
        node
    }

    fn give(range: &str, nodes: &[Node]) -> (Vec<Option<IpAddr>>, Vec<Problem>) {
        let nodes: Vec<&Node> = nodes.iter().collect();
        let mut by_age: Vec<usize> = (0..nodes.len()).collect();
        by_age.sort_by_key(|&at| (nodes[at].since, at));
        let mut problems = Vec::new();
        (Pool::of(range.parse().unwrap()).give(&nodes, &by_age, &mut problems), problems)
    }

    #[test]
    fn every_host_address_is_given_once_and_then_there_is_a_problem() {
        for (range, hosts) in [("10.4.0.0/29", 6), ("fd44::/125", 7)] {
            let nodes: Vec<Node> = (0..9).map(|at| node(&format!("n{at}"), at)).collect();
            let (given, problems) = give(range, &nodes);
            let mut some: Vec<IpAddr> = given.iter().flatten().copied().collect();
            some.sort();
            some.dedup();
            assert_eq!(some.len(), hosts, "{range}");
            // The oldest have them.
            assert!(given[..hosts].iter().all(Option::is_some));
            assert_eq!(problems.len(), 9 - hosts);
            assert!(problems.iter().all(|p| p.kind == ProblemKind::OverlayExhausted));
        }
    }

    #[test]
    fn configured_beats_held_and_held_beats_hashed() {
        let address: IpAddr = "10.4.0.9".parse().unwrap();
        let mut nodes = [node("a", 1), node("b", 2), node("c", 3)];
        nodes[0].held.overlay_addresses = vec![address];
        nodes[1].held.overlay_addresses = vec![address];
        let (given, problems) = give("10.4.0.0/16", &nodes);
        assert_eq!(given[0], Some(address));
        assert_ne!(given[1], Some(address));
        assert_eq!(problems.len(), 2);

        nodes[2].overlay_addresses = vec![address];
        let (given, problems) = give("10.4.0.0/16", &nodes);
        assert_eq!(given[2], Some(address));
        let subjects: Vec<String> = problems.iter().map(|p| p.subject.to_string()).collect();
        assert_eq!(subjects, ["node a", "node c", "node b", "node c"]);
    }

    #[test]
    fn the_whole_of_ipv6_is_a_range_too() {
        let pool = Pool::of("::/0".parse().unwrap());
        assert_eq!((pool.first, pool.last), (1, u128::MAX));
        assert!(give("::/0", &[node("a", 0)]).0[0].is_some());
    }
}
