//! The rtnetlink connection (rtnetlink(7), RFC 3549): one exchange at a time, whole lists or none.
//!
//! Built on what the `rtnetlink` crate is built on rather than on that: its handles do not show whether a list was
//! interrupted, and send requests one by one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{
    DefaultNla, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, Nla, NlasIterator, Parseable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_proto::ConnectionHandle;
use netlink_proto::sys::protocols::NETLINK_ROUTE;
use netlink_proto::sys::{AsyncSocket, SocketAddr};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::error::{HostError, Refusal};

/// A connection to the kernel of the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Netlink {
    /// Locked for the length of an exchange: two dumps at once on one socket are refused with `EBUSY`.
    handle: Arc<Mutex<ConnectionHandle<RouteNetlinkMessage>>>,
    runtime: Handle,
    port: u32,
}

/// A request that changes something, with its `NLM_F_` flags beyond request and acknowledgement.
pub(crate) type Request = (RouteNetlinkMessage, u16);

type Message = NetlinkMessage<RouteNetlinkMessage>;

impl Netlink {
    /// Opens it in the calling thread's network namespace. Its task ends when it is dropped.
    pub(crate) fn open() -> Result<Self, HostError> {
        let runtime = Handle::try_current().map_err(|_| HostError::NoRuntime)?;
        let (mut connection, handle, _) =
            netlink_proto::new_connection(NETLINK_ROUTE).map_err(HostError::Socket)?;
        // The end of a list says whether it was interrupted; acknowledgements are counted against requests.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        let socket = connection.socket_mut().socket_mut();
        // Each is a service of newer kernels that nothing here depends on: lists filtered by the kernel (4.20),
        // explanations with errors (4.12), errors without the request in them (4.3).
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let port = socket.bind_auto().map_err(HostError::Socket)?.port_number();
        runtime.spawn(connection);
        Ok(Self { handle: Arc::new(Mutex::new(handle)), runtime, port })
    }

    /// The socket's number, which the kernel tells others with the changes that come from it.
    pub(crate) const fn port(&self) -> u32 {
        self.port
    }

    /// Reads a whole list. One that changed while it was read is read anew.
    pub(crate) async fn dump(
        &self,
        what: &'static str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, HostError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut message = NetlinkMessage::from(request.clone());
            message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
            match whole_list(self.exchange(what, vec![message]).await?) {
                List::Whole(list) => return Ok(list),
                List::Interrupted => tracing::debug!(what, "list interrupted"),
                List::Refused(refusal) if is_unsupported_family(&refusal) => return Ok(Vec::new()),
                List::Refused(refusal) => return Err(HostError::Refused { what, refusal }),
                List::Endless => return Err(HostError::Closed),
            }
        }
        Err(HostError::Interrupted { what, attempts: DUMP_ATTEMPTS })
    }

    /// Asks for single things and returns what came of each, in order. `Err` within is the kernel's refusal.
    pub(crate) async fn ask(
        &self,
        what: &'static str,
        requests: Vec<RouteNetlinkMessage>,
    ) -> Result<Vec<Result<RouteNetlinkMessage, Refusal>>, HostError> {
        let request = |request| (request, 0);
        self.in_batches(what, 0, requests.into_iter().map(request), answer).await
    }

    /// Makes the requests in order and returns an outcome for each. Many go to the kernel in one datagram, which works
    /// through them in order whatever becomes of each.
    pub(crate) async fn carry_out(
        &self,
        what: &'static str,
        requests: Vec<Request>,
    ) -> Result<Vec<Result<(), Refusal>>, HostError> {
        self.in_batches(what, NLM_F_ACK, requests.into_iter(), acknowledgement).await
    }

    /// Sends requests with these flags beside their own, and reads one outcome for each.
    async fn in_batches<T>(
        &self,
        what: &'static str,
        flags: u16,
        requests: impl Iterator<Item = Request>,
        outcome: impl Fn(Message) -> Option<T>,
    ) -> Result<Vec<T>, HostError> {
        let mut outcomes = Vec::with_capacity(requests.size_hint().0);
        let mut requests = requests.map(|(request, own)| {
            let mut message = NetlinkMessage::from(request);
            message.header.flags = NLM_F_REQUEST | flags | own;
            message
        });
        loop {
            let batch: Vec<Message> = requests.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok(outcomes);
            }
            let sent = batch.len();
            let replies = self.exchange(what, batch).await?;
            let before = outcomes.len();
            outcomes.extend(replies.into_iter().filter_map(&outcome));
            if outcomes.len() - before != sent {
                return Err(HostError::Closed);
            }
        }
    }

    /// Sends and waits for all replies, in a task of its own: a caller that gives up leaves no half-read list behind,
    /// on which the next caller's would be refused.
    async fn exchange(
        &self,
        what: &'static str,
        messages: Vec<Message>,
    ) -> Result<Vec<Message>, HostError> {
        let handle = Arc::clone(&self.handle);
        let exchange = self.runtime.spawn(async move {
            let handle = handle.lock_owned().await;
            let replies = handle
                .request_batch(messages, SocketAddr::new(0, 0))
                .map_err(|_| HostError::Closed)?;
            tokio::time::timeout(PATIENCE, replies.collect())
                .await
                .map_err(|_| HostError::Unanswered { what, seconds: PATIENCE.as_secs() })
        });
        exchange.await.unwrap_or(Err(HostError::Closed))
    }
}

/// What came of reading a list.
#[derive(Debug, PartialEq)]
pub(crate) enum List<T> {
    /// The messages ended before the list did.
    Endless,
    Interrupted,
    Refused(Refusal),
    Whole(Vec<T>),
}

pub(crate) fn whole_list<T>(messages: Vec<NetlinkMessage<T>>) -> List<T> {
    let mut list = Vec::new();
    let mut interrupted = false;
    for message in messages {
        interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(inner) => list.push(inner),
            NetlinkPayload::Done(done) if done.code == 0 && interrupted => {
                return List::Interrupted;
            }
            NetlinkPayload::Done(done) if done.code == 0 => return List::Whole(list),
            NetlinkPayload::Done(done) => {
                return List::Refused(Refusal { errno: done.code.saturating_abs(), detail: None });
            }
            NetlinkPayload::Error(error) => return List::Refused(refusal(&error)),
            _ => return List::Interrupted,
        }
    }
    List::Endless
}

pub(crate) fn answer<T>(message: NetlinkMessage<T>) -> Option<Result<T, Refusal>> {
    match message.payload {
        NetlinkPayload::InnerMessage(inner) => Some(Ok(inner)),
        NetlinkPayload::Error(error) if error.code.is_some() => Some(Err(refusal(&error))),
        _ => None,
    }
}

pub(crate) fn acknowledgement<T>(message: NetlinkMessage<T>) -> Option<Result<(), Refusal>> {
    match message.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Some(Ok(())),
        NetlinkPayload::Error(error) => Some(Err(refusal(&error))),
        _ => None,
    }
}

/// Netlink carries error numbers negated (netlink(7), `struct nlmsgerr`).
fn refusal(error: &ErrorMessage) -> Refusal {
    // The header of the refused request comes first, then attributes.
    let attributes = error.header.get(NLMSG_HEADER..).unwrap_or_default();
    let detail = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|attribute| DefaultNla::parse(&attribute).ok())
        .map(|attribute| {
            let mut text = vec![0; attribute.value_len()];
            attribute.emit_value(&mut text);
            String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned()
        });
    Refusal { errno: error.raw_code().saturating_abs(), detail }
}

/// A kernel without IPv6 has no IPv6 objects to list.
pub(crate) fn is_unsupported_family(refusal: &Refusal) -> bool {
    refusal.is(Errno::OPNOTSUPP) || refusal.is(Errno::AFNOSUPPORT)
}

/// How often a list is begun before it is given up. A kernel under a storm of changes interrupts many in a row.
pub(crate) const DUMP_ATTEMPTS: u32 = 10;

/// Requests in a datagram. Their acknowledgements must fit into the socket's receive buffer (208 KiB by default, and
/// each takes under 1 KiB of it), because the kernel drops those that do not.
const BATCH: usize = 64;

/// How long the kernel may take. It answers in microseconds, unless it waits for a lock that a driver holds.
const PATIENCE: Duration = Duration::from_secs(5);

const NLMSG_HEADER: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

#[cfg(test)]
mod tests;
