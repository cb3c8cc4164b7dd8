use proptest::prelude::*;
use wireloom_model::{Cidr, Family};

use super::read::prefixes;
use super::render::change_sets;
use super::*;
use wireloom_model::kernel::NftSet;

fn cidr() -> impl Strategy<Value = Cidr> {
    let length = prop_oneof![0u8..=3, 20u8..=32];
    (any::<bool>(), any::<u128>(), length, any::<bool>()).prop_map(|(v6, bits, length, near)| {
        // Near each other, for neighbours and nests.
        let bits = if near { bits & 0x3ff } else { bits };
        if v6 {
            let length = if length > 3 { length + 96 } else { length };
            Cidr::truncated(std::net::Ipv6Addr::from_bits(bits).into(), length).unwrap()
        } else {
            Cidr::truncated(std::net::Ipv4Addr::from_bits(bits as u32).into(), length).unwrap()
        }
    })
}

proptest! {
    #[test]
    fn prefixes_go_there_and_back(set in proptest::collection::btree_set(cidr(), 0..12)) {
        let kept: std::collections::BTreeSet<Cidr> = disjoint(&set).collect();
        prop_assert!(set.iter().all(|prefix| kept.iter().any(|kept| kept.covers(prefix))));
        for prefix in &kept {
            prop_assert_eq!(kept.iter().filter(|other| other.overlaps(prefix)).count(), 1);
        }
        let added = BTreeMap::from([(NftSet::Mesh, set)]);
        let commands = change_sets(&BTreeMap::new(), &added);
        let of = |family: Family| {
            let name = render::set_name(NftSet::Mesh, family);
            let is_its = |(message, _): &&Command| {
                message.attribute(NFTA_SET_ELEM_LIST_SET).is_some_and(|n| wire::text(n) == name)
            };
            commands.iter().filter(is_its).map(|(message, _)| message.clone()).collect::<Vec<_>>()
        };
        let mut read = std::collections::BTreeSet::new();
        for family in Family::BOTH {
            read.extend(prefixes(&of(family), family).unwrap());
        }
        prop_assert_eq!(read, kept);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message in exchange::messages::<NftMessage>(&bytes) {
            let _ = format!("{message:?}");
        }
        let message = NftMessage { kind: 0x0a0c, payload: bytes };
        is_of_our_table(&message);
        generation(&message);
        let told = Told {
            chains: vec![message.clone()],
            rules: vec![message.clone()],
            sets: vec![message.clone()],
            elements: [((NftSet::Mesh, Family::V4), vec![message])].into(),
        };
        prop_assert_eq!(told.nft(), None);
    }
}

#[test]
fn many_prefixes_take_several_messages_and_none_is_too_long() {
    let prefixes =
        (0..10_000u32).map(|n| Cidr::host(std::net::Ipv6Addr::from_bits(u128::from(n) * 2).into()));
    let added = BTreeMap::from([(NftSet::Mesh, prefixes.collect())]);
    let commands = change_sets(&BTreeMap::new(), &added);
    assert!(commands.len() > 1);
    assert!(commands.iter().all(|(message, _)| message.payload.len() <= usize::from(u16::MAX)));
}

#[test]
fn the_number_after_the_last_is_one() {
    assert_eq!(next_generation(1), 2);
    assert_eq!(next_generation(u32::MAX), 1);
}
