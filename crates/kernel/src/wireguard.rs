//! WireGuard devices of the kernel's own, configured over generic netlink (`linux/wireguard.h`).
//!
//! They take and tell what a device in user space does over its UAPI socket, so whoever drives one drives the other.
//! The link itself is made like any other, as [`LinkKind::WireGuard`](wireloom_model::kernel::LinkKind::WireGuard).

use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
    NetlinkSerializable, ParseableParametrized,
};
use netlink_packet_generic::constants::GENL_ID_CTRL;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_wireguard::WireguardMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rustix::io::Errno;
use wireloom_model::InterfaceName;
use wireloom_model::kernel::LinkKind;
use wireloom_tunnel::uapi::{DeviceStatus, SetDevice};
use zeroize::Zeroizing;

use crate::error::{HostError, Refusal};
use crate::exchange;
use crate::feature::Feature;
use crate::message::{link, link_of};
use crate::netlink::{List, acknowledgement, answer, whole_list};

mod message;

/// Why a device could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireguardError {
    /// The kernel could not be asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// There is no such link, or it is no WireGuard device.
    #[error("there is no WireGuard device {0} in the kernel; it has to be made first")]
    NoDevice(InterfaceName),
    /// The kernel has no WireGuard.
    #[error("this kernel has no {}; {}", Feature::WireGuard, Feature::WireGuard.remedy())]
    NoFeature,
    /// The kernel refused a change; those before it in the same request have been made.
    #[error("the kernel refused a change of the WireGuard device {interface}: {refusal}")]
    Refused {
        /// The device.
        interface: InterfaceName,
        /// What the kernel said.
        refusal: Refusal,
    },
}

/// A WireGuard device of the kernel, known by its name in the network namespace that this was opened in.
#[derive(Debug)]
pub struct WireguardDevice {
    interface: InterfaceName,
    connection: Mutex<Connection>,
    /// Where links are asked for.
    links: Socket,
}

#[derive(Debug)]
struct Connection {
    socket: Socket,
    /// The number that the kernel gave the WireGuard family.
    family: u16,
    sequence: u32,
}

impl WireguardDevice {
    /// Opens the way to the device of this name, which need not exist yet.
    ///
    /// # Errors
    ///
    /// [`WireguardError::NoFeature`] if the kernel has no WireGuard and no module that it could load, and
    /// [`WireguardError::Host`] if there is no way to ask.
    pub fn open(interface: InterfaceName) -> Result<Self, WireguardError> {
        let socket = exchange::socket(NETLINK_GENERIC).map_err(HostError::Socket)?;
        let mut connection = Connection { socket, family: GENL_ID_CTRL, sequence: 0 };
        connection.family = connection.resolve()?;
        let links = exchange::socket(NETLINK_ROUTE).map_err(HostError::Socket)?;
        Ok(Self { interface, connection: Mutex::new(connection), links })
    }

    /// Changes what the request names and leaves everything else alone. A request that is too long for one message goes
    /// out as several, each of which the kernel carries out by itself.
    ///
    /// # Errors
    ///
    /// That there is no such device, or what the kernel says against it.
    pub fn set(&self, request: &SetDevice) -> Result<(), WireguardError> {
        let mut connection = self.connection();
        let adapted;
        let request = if message::takes_away_allowed_ips(request) {
            let status = connection.status(&self.interface)?;
            adapted = message::with_whole_lists(request, &status);
            &adapted
        } else {
            request
        };
        message::changes(&self.interface, request)
            .into_iter()
            .try_for_each(|change| connection.change(&self.interface, change))
    }

    /// The device's configuration, peers and counters.
    ///
    /// # Errors
    ///
    /// That there is no such device, or that the kernel does not tell. It takes CAP_NET_ADMIN.
    pub fn status(&self) -> Result<DeviceStatus, WireguardError> {
        self.connection().status(&self.interface)
    }

    /// Whether there is a link of this name that we did not make. It may be of any kind.
    ///
    /// # Errors
    ///
    /// That there is no way to ask.
    pub fn is_anothers(&self) -> Result<bool, WireguardError> {
        let mut message = NetlinkMessage::from(link_of(&self.interface));
        message.header.flags = NLM_F_REQUEST;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let replies = exchange::exchange(&self.links, &bytes)?;
        match replies.into_iter().find_map(answer).ok_or(HostError::Closed)? {
            Ok(RouteNetlinkMessage::NewLink(told)) => {
                Ok(link(&told).is_some_and(|heard| heard.made == LinkKind::Held))
            }
            Ok(_) => Err(HostError::Closed.into()),
            Err(refusal) if refusal.is(Errno::NODEV) => Ok(false),
            Err(refusal) => Err(HostError::Refused { what: "link", refusal }.into()),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Whoever panicked left a number behind, which the next exchange counts on from.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn resolve(&mut self) -> Result<u16, WireguardError> {
        let name = WireguardMessage::family_name().to_owned();
        let request =
            GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![GenlCtrlAttrs::FamilyName(name)] };
        let replies = self.exchange(request, 0)?;
        match replies.into_iter().find_map(answer).ok_or(HostError::Closed)? {
            Ok(message) => {
                let number = message.payload.nlas.iter().find_map(|attribute| match attribute {
                    GenlCtrlAttrs::FamilyId(number) => Some(*number),
                    _ => None,
                });
                Ok(number.ok_or(HostError::Closed)?)
            }
            Err(refusal) if refusal.is(Errno::NOENT) => Err(WireguardError::NoFeature),
            Err(refusal) => Err(HostError::Refused { what: WHAT, refusal }.into()),
        }
    }

    fn status(&mut self, interface: &InterfaceName) -> Result<DeviceStatus, WireguardError> {
        for _ in 0..ATTEMPTS {
            let request = message::question(interface);
            match whole_list(self.exchange(request, NLM_F_DUMP)?) {
                List::Whole(parts) => {
                    let parts = parts.into_iter().map(|part| part.payload.attributes);
                    return Ok(message::status(parts));
                }
                List::Interrupted => {}
                List::Refused(refusal) => return Err(refused(interface, refusal)),
                List::Endless => return Err(HostError::Closed.into()),
            }
        }
        Err(HostError::Interrupted { what: WHAT, attempts: ATTEMPTS }.into())
    }

    fn change(
        &mut self,
        interface: &InterfaceName,
        change: WireguardMessage,
    ) -> Result<(), WireguardError> {
        let replies = self.exchange(change, NLM_F_ACK)?;
        let outcome = replies.into_iter().find_map(acknowledgement).ok_or(HostError::Closed)?;
        outcome.map_err(|refusal| refused(interface, refusal))
    }

    fn exchange<F>(
        &mut self,
        payload: F,
        flags: u16,
    ) -> Result<Vec<NetlinkMessage<GenlMessage<F>>>, HostError>
    where
        F: Payload,
        GenlMessage<F>: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut inner = GenlMessage::from_payload(payload);
        inner.set_resolved_family_id(self.family);
        let mut message = NetlinkMessage::from(inner);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        // There may be keys in it.
        let mut bytes = Zeroizing::new(vec![0; message.buffer_len()]);
        message.serialize(&mut bytes);
        exchange::exchange(&self.socket, &bytes)
    }
}

/// What goes into a generic netlink message and comes out of one.
trait Payload:
    GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + std::fmt::Debug
{
}

impl Payload for GenlCtrl {}
impl Payload for WireguardMessage {}

fn refused(interface: &InterfaceName, refusal: Refusal) -> WireguardError {
    let interface = interface.clone();
    if refusal.is(Errno::NODEV) || refusal.is(Errno::OPNOTSUPP) {
        WireguardError::NoDevice(interface)
    } else {
        WireguardError::Refused { interface, refusal }
    }
}

const WHAT: &str = "WireGuard device";

/// How often the device is read while others change it.
const ATTEMPTS: u32 = 10;

#[cfg(test)]
mod tests;
