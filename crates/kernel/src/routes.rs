//! All routes of a host, of which a mesh may have very many.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use wireloom_model::Family;

use crate::error::HostError;
use crate::exchange::{exchange, socket};
use crate::message::{self, HeardRoute};
use crate::netlink::{DUMP_ATTEMPTS, List, is_unsupported_family, whole_list};

/// A connection for lists of routes alone. What is told is read as it comes: one message after another, handed from task
/// to task, takes longer than the kernel does.
#[derive(Debug)]
pub(crate) struct Routes(Mutex<Socket>);

/// What a message says of a route; nothing if it is about something else.
struct Told(Option<HeardRoute>);

impl NetlinkDeserializable for Told {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Infallible> {
        Ok(Self(match RouteNetlinkMessage::deserialize(header, payload) {
            Ok(RouteNetlinkMessage::NewRoute(route)) => message::route(&route),
            _ => None,
        }))
    }
}

impl Routes {
    /// Opens it in the calling thread's network namespace.
    pub(crate) fn open() -> Result<Self, HostError> {
        let socket = socket(NETLINK_ROUTE).map_err(HostError::Socket)?;
        // Lists filtered by the kernel: a service of newer ones (4.20).
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self(Mutex::new(socket)))
    }

    /// The routes of all tables: those of one protocol, or everybody's. A list that changed while it was read is read
    /// anew.
    pub(crate) fn list(&self, protocol: Option<u8>) -> Result<Vec<HeardRoute>, HostError> {
        // Two lists at once on one socket are refused. Whoever panicked left one that is read to its end.
        let socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut heard = Vec::new();
        for family in Family::BOTH {
            let routes =
                of_family(&socket, family, protocol)?.into_iter().filter_map(|told| told.0);
            // An older kernel tells everybody's, whatever was asked.
            heard.extend(routes.filter(|route| {
                !route.is_cached && protocol.is_none_or(|protocol| protocol == route.protocol)
            }));
        }
        Ok(heard)
    }
}

fn of_family(
    socket: &Socket,
    family: Family,
    protocol: Option<u8>,
) -> Result<Vec<Told>, HostError> {
    const WHAT: &str = "routes";
    let mut request = NetlinkMessage::from(message::all_routes(family, protocol));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    for _ in 0..DUMP_ATTEMPTS {
        match whole_list(exchange(socket, &bytes)?) {
            List::Whole(list) => return Ok(list),
            List::Interrupted => tracing::debug!(what = WHAT, "list interrupted"),
            List::Refused(refusal) if is_unsupported_family(&refusal) => return Ok(Vec::new()),
            List::Refused(refusal) => return Err(HostError::Refused { what: WHAT, refusal }),
            List::Endless => return Err(HostError::Closed),
        }
    }
    Err(HostError::Interrupted { what: WHAT, attempts: DUMP_ATTEMPTS })
}
