use std::num::NonZeroI32;

use netlink_packet_core::{DoneMessage, NLM_F_MULTIPART, NetlinkHeader};
use netlink_packet_route::link::LinkMessage;

use super::*;

fn entry(flags: u16) -> Message {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_MULTIPART | flags;
    let link = RouteNetlinkMessage::NewLink(LinkMessage::default());
    NetlinkMessage::new(header, NetlinkPayload::InnerMessage(link))
}

fn done(flags: u16, code: i32) -> Message {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_MULTIPART | flags;
    let mut done = DoneMessage::default();
    done.code = code;
    NetlinkMessage::new(header, NetlinkPayload::Done(done))
}

fn error(code: i32, payload: &[u8]) -> Message {
    let mut error = ErrorMessage::default();
    error.code = NonZeroI32::new(code);
    error.header = payload.to_vec();
    NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Error(error))
}

#[test]
fn a_list_counts_only_to_its_end() {
    let List::Whole(list) = whole_list(vec![entry(0), entry(0), done(0, 0)]) else {
        panic!("it is whole");
    };
    assert_eq!(list.len(), 2);
    assert_eq!(whole_list(vec![entry(0)]), List::Endless);
    assert_eq!(whole_list(Vec::<Message>::new()), List::Endless);
}

#[test]
fn an_interrupted_list_is_never_trusted() {
    let interrupted = [
        vec![entry(NLM_F_DUMP_INTR), entry(0), done(0, 0)],
        vec![entry(0), entry(0), done(NLM_F_DUMP_INTR, 0)],
        vec![done(NLM_F_DUMP_INTR, 0)],
    ];
    for messages in interrupted {
        assert_eq!(whole_list(messages), List::Interrupted);
    }
    let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(vec![]));
    assert_eq!(whole_list(vec![entry(0), overrun, done(0, 0)]), List::Interrupted);
}

#[test]
fn error_numbers_are_positive_wherever_they_stand() {
    let unreachable = Refusal { errno: 101, detail: None };
    assert_eq!(whole_list(vec![done(0, -101)]), List::Refused(unreachable.clone()));
    assert_eq!(whole_list(vec![error(-101, &[])]), List::Refused(unreachable.clone()));
    assert_eq!(acknowledgement(error(-101, &[])), Some(Err(unreachable.clone())));
    assert_eq!(answer(error(-101, &[])), Some(Err(unreachable)));
    assert_eq!(acknowledgement(error(0, &[])), Some(Ok(())));
    assert_eq!(answer(error(0, &[])), None);
}

#[test]
fn the_kernels_explanation_is_read_behind_the_requests_header() {
    let mut payload = vec![0; NLMSG_HEADER];
    payload.extend_from_slice(&[8, 0, 2, 0, 1, 2, 3, 4]); // NLMSGERR_ATTR_OFFS
    payload.extend_from_slice(&[8, 0, 1, 0, b'n', b'o', b'!', 0]); // NLMSGERR_ATTR_MSG
    let Some(Err(refusal)) = acknowledgement(error(-22, &payload)) else { panic!("an error") };
    assert_eq!(refusal, Refusal { errno: 22, detail: Some("no!".into()) });
    // Cut short anywhere, it is an error without an explanation, or with what there is of it.
    for length in 0..payload.len() {
        assert!(matches!(acknowledgement(error(-22, &payload[..length])), Some(Err(_))));
    }
}
