use proptest::prelude::*;

use super::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn at(allowed_ips: &AllowedIps, address: &str) -> Option<Slot> {
    allowed_ips.routes().lookup(address.parse().unwrap())
}

#[test]
fn the_longest_prefix_wins_and_families_do_not_mix() {
    let mut allowed_ips = AllowedIps::default();
    allowed_ips.insert(1, cidr("0.0.0.0/0"));
    allowed_ips.insert(2, cidr("10.0.0.0/8"));
    allowed_ips.insert(3, cidr("10.1.2.3/32"));
    assert_eq!(at(&allowed_ips, "10.1.2.3"), Some(3));
    assert_eq!(at(&allowed_ips, "10.1.2.4"), Some(2));
    assert_eq!(at(&allowed_ips, "192.0.2.1"), Some(1));
    assert_eq!(at(&allowed_ips, "fd00::1"), None);
    allowed_ips.insert(4, cidr("::/0"));
    assert_eq!(at(&allowed_ips, "fd00::1"), Some(4));
    assert_eq!(at(&allowed_ips, "::ffff:10.1.2.3"), Some(4));
}

#[test]
fn a_published_lookup_does_not_change() {
    let mut allowed_ips = AllowedIps::default();
    allowed_ips.insert(1, cidr("10.0.0.0/8"));
    let before = allowed_ips.routes();
    allowed_ips.insert(1, cidr("10.0.0.0/8"));
    assert!(Arc::ptr_eq(&before, &allowed_ips.routes()));
    allowed_ips.insert(2, cidr("10.0.0.0/8"));
    assert_eq!(before.lookup("10.0.0.1".parse().unwrap()), Some(1));
    assert_eq!(at(&allowed_ips, "10.0.0.1"), Some(2));
}

#[derive(Debug, Clone)]
enum Change {
    Insert(Slot, Cidr),
    Remove(Slot, Cidr),
    Retain(Slot, BTreeSet<Cidr>),
}

/// Prefixes that overlap often: few bits vary.
fn prefix() -> impl Strategy<Value = Cidr> {
    (any::<bool>(), 0u32..8, 0u8..=32).prop_map(|(is_v4, bits, length)| {
        let address = if is_v4 {
            IpAddr::V4((0x0a00_0000 | bits << 29 | bits).into())
        } else {
            IpAddr::V6((u128::from(bits) << 125 | u128::from(bits)).into())
        };
        let length = if is_v4 || length < 16 { length } else { 96 + length };
        Cidr::truncated(address, length).unwrap()
    })
}

fn change() -> impl Strategy<Value = Change> {
    let slot = 0u32..4;
    prop_oneof![
        6 => (slot.clone(), prefix()).prop_map(|(slot, prefix)| Change::Insert(slot, prefix)),
        2 => (slot.clone(), prefix()).prop_map(|(slot, prefix)| Change::Remove(slot, prefix)),
        1 => (slot, proptest::collection::btree_set(prefix(), 0..4))
            .prop_map(|(slot, kept)| Change::Retain(slot, kept)),
    ]
}

proptest! {
    #[test]
    fn every_lookup_is_that_of_a_linear_scan(
        changes in proptest::collection::vec(change(), 0..60),
        probes in proptest::collection::vec(prefix(), 20),
    ) {
        let mut allowed_ips = AllowedIps::default();
        let mut scan: BTreeMap<Cidr, Slot> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Insert(slot, prefix) => {
                    allowed_ips.insert(slot, prefix);
                    scan.insert(prefix, slot);
                }
                Change::Remove(slot, prefix) => {
                    allowed_ips.remove(slot, prefix);
                    if scan.get(&prefix) == Some(&slot) {
                        scan.remove(&prefix);
                    }
                }
                Change::Retain(slot, kept) => {
                    allowed_ips.retain(slot, &kept);
                    scan.retain(|prefix, owner| *owner != slot || kept.contains(prefix));
                }
            }
        }
        let routes = allowed_ips.routes();
        for address in probes.iter().chain(scan.keys()).map(Cidr::address) {
            let longest = scan.iter().filter(|(prefix, _)| prefix.contains(address));
            let longest = longest.max_by_key(|(prefix, _)| prefix.length()).map(|(_, slot)| *slot);
            prop_assert_eq!(routes.lookup(address), longest, "{}", address);
        }
        for slot in 0..4 {
            let owned = scan.iter().filter(|(_, owner)| **owner == slot);
            let owned: BTreeSet<Cidr> = owned.map(|(prefix, _)| *prefix).collect();
            prop_assert_eq!(allowed_ips.of(slot), owned);
        }
    }
}
