//! The nftables table: read, and changed by transactions that the kernel takes as a whole or not at all.
//!
//! Spoken straight to the kernel. The `nft` program starts, and reads all that is there, for 30 ms before it changes one
//! element, and need not be installed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use netlink_packet_core::{NLM_F_DUMP, NetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use rustix::io::Errno;
use rustix::net::sockopt;
use wireloom_model::kernel::{NFT_TABLE, Nft};

use crate::change::Change;
use crate::error::{HostError, Refusal};
use crate::exchange;
use crate::netlink::{List, acknowledgement, answer, whole_list};

mod forward;
mod kinds;
mod read;
mod render;
mod rule;
mod wire;

pub use forward::ForwardDrop;
pub(crate) use render::disjoint;
pub(crate) use wire::NftMessage;

use kinds::*;
use read::Told;
use wire::{Attributes, Command};

/// A connection to the nftables of the network namespace that it was opened in.
#[derive(Debug)]
pub(crate) struct Nftables(Mutex<Connection>);

#[derive(Debug)]
struct Connection {
    socket: Socket,
    sequence: u32,
    known: Option<Known>,
    /// Others' chains at the forward hook.
    looked: Option<forward::Looked>,
}

/// The table as it was at a generation of the rule set, whose number changes with every transaction of anybody.
#[derive(Debug)]
struct Known {
    generation: u32,
    nft: Option<Nft>,
}

type Message = NetlinkMessage<NftMessage>;

impl Nftables {
    /// `None` if the kernel has no netfilter.
    pub(crate) fn open() -> Result<Option<Self>, HostError> {
        let socket = match socket() {
            Ok(socket) => socket,
            Err(error) if is(&error, Errno::PROTONOSUPPORT) => return Ok(None),
            Err(error) => return Err(HostError::Socket(error)),
        };
        Ok(Some(Self(Mutex::new(Connection { socket, sequence: 0, known: None, looked: None }))))
    }

    /// The table. One that is not as we made it reads as one that does nothing. Reads nothing but a number if no
    /// transaction came between.
    pub(crate) fn observe(&self) -> Result<Option<Nft>, HostError> {
        self.connection().observe()
    }

    /// Whether the kernel has nftables.
    pub(crate) fn is_there(&self) -> Result<bool, HostError> {
        Ok(self.connection().generation_if_any()?.is_some())
    }

    /// Whether the transaction that gave the rule set this number came after the table was last read or written.
    pub(crate) fn is_news(&self, generation: u32) -> bool {
        let known = self.connection().known.as_ref().map(|known| known.generation);
        known.is_none_or(|known| is_after(generation, known))
    }

    /// Makes a change of the table, or of our rules in others' chains, in one transaction, and returns how many writes
    /// that took. `Err` within is the kernel's refusal, after which nothing has changed.
    pub(crate) fn apply(&self, change: &Change) -> Result<Result<usize, Refusal>, HostError> {
        let commands = match change {
            Change::SetNft(nft) => render::make(nft),
            Change::ChangeNftSets { deleted, added } => render::change_sets(deleted, added),
            Change::DeleteNft => render::delete(),
            Change::AcceptPassed(bits) => return self.accept_passed(*bits),
            _ => return Ok(Ok(0)),
        };
        let mut connection = self.connection();
        let before = connection.generation()?;
        let outcome = connection.transact(commands)?;
        let after = connection.generation()?;
        let was_alone = outcome.is_ok() && after == next_generation(before);
        let looked = connection.looked.as_mut().filter(|looked| looked.generation == before);
        if let Some(looked) = looked.filter(|_| was_alone) {
            looked.generation = after;
        }
        // What is known stays known if ours was the only transaction.
        let known = connection.known.take().filter(|known| known.generation == before);
        if outcome.is_err() {
            connection.known = known.filter(|_| after == before);
        } else if let Some(mut known) = known.filter(|_| after == next_generation(before)) {
            change.apply_to_nft(&mut known.nft);
            connection.known = Some(Known { generation: after, ..known });
        }
        Ok(outcome.map(|()| 1))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Whoever panicked left a number and a cache that the next exchange checks.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn observe(&mut self) -> Result<Option<Nft>, HostError> {
        for _ in 0..ATTEMPTS {
            let Some(generation) = self.generation_if_any()? else { return Ok(None) };
            if let Some(known) = &self.known
                && known.generation == generation
            {
                return Ok(known.nft.clone());
            }
            let nft = match self.read() {
                Err(HostError::Interrupted { .. }) => continue,
                read => read?,
            };
            if self.generation()? == generation {
                self.known = Some(Known { generation, nft: nft.clone() });
                return Ok(nft);
            }
        }
        Err(HostError::Interrupted { what: WHAT, attempts: ATTEMPTS })
    }

    fn read(&mut self) -> Result<Option<Nft>, HostError> {
        match self.ask(NftMessage::inet(NFT_MSG_GETTABLE, render::table()))? {
            Ok(_) => {}
            Err(refusal) if refusal.is(Errno::NOENT) => return Ok(None),
            Err(refusal) => return Err(HostError::Refused { what: WHAT, refusal }),
        }
        let mut told = Told {
            chains: self.dump(NFT_MSG_GETCHAIN, render::table())?,
            rules: self.dump(NFT_MSG_GETRULE, render::table())?,
            sets: self.dump(NFT_MSG_GETSET, render::table())?,
            elements: BTreeMap::new(),
        };
        for (set, family) in told.our_sets() {
            let request =
                render::table().text(NFTA_SET_ELEM_LIST_SET, &render::set_name(set, family));
            told.elements.insert((set, family), self.dump(NFT_MSG_GETSETELEM, request)?);
        }
        Ok(Some(told.nft().unwrap_or_default()))
    }

    fn generation(&mut self) -> Result<u32, HostError> {
        let refusal = Refusal { errno: Errno::OPNOTSUPP.raw_os_error(), detail: None };
        self.generation_if_any()?.ok_or(HostError::Refused { what: WHAT, refusal })
    }

    /// `None` if the kernel has no nftables.
    fn generation_if_any(&mut self) -> Result<Option<u32>, HostError> {
        match self.ask(NftMessage::inet(NFT_MSG_GETGEN, Attributes::default()))? {
            Ok(message) => generation(&message).map(Some).ok_or(HostError::Closed),
            // What nfnetlink says of a subsystem that is not there.
            Err(refusal) if refusal.is(Errno::INVAL) || refusal.is(Errno::OPNOTSUPP) => Ok(None),
            Err(refusal) => Err(HostError::Refused { what: WHAT, refusal }),
        }
    }

    fn ask(&mut self, request: NftMessage) -> Result<Result<NftMessage, Refusal>, HostError> {
        self.send(request, 0)?.into_iter().find_map(answer).ok_or(HostError::Closed)
    }

    /// A list of what is in our table.
    fn dump(&mut self, kind: u8, attributes: Attributes) -> Result<Vec<NftMessage>, HostError> {
        // The kernel tells the chains of every table of the family, whatever was asked.
        let list = self.list(NftMessage::inet(kind, attributes))?;
        Ok(list.into_iter().filter(is_of_our_table).collect())
    }

    fn list(&mut self, request: NftMessage) -> Result<Vec<NftMessage>, HostError> {
        match whole_list(self.send(request, NLM_F_DUMP)?) {
            List::Whole(list) => Ok(list),
            List::Interrupted => Err(HostError::Interrupted { what: WHAT, attempts: 1 }),
            List::Refused(refusal) if refusal.is(Errno::NOENT) => {
                Err(HostError::Interrupted { what: WHAT, attempts: 1 })
            }
            List::Refused(refusal) => Err(HostError::Refused { what: WHAT, refusal }),
            List::Endless => Err(HostError::Closed),
        }
    }

    fn transact(&mut self, commands: Vec<Command>) -> Result<Result<(), Refusal>, HostError> {
        let replies: Vec<Message> =
            exchange::exchange(&self.socket, &wire::transaction(commands, self.sequence))?;
        if replies.is_empty() {
            return Err(HostError::Closed);
        }
        let refused = replies.into_iter().filter_map(acknowledgement).find(Result::is_err);
        Ok(refused.unwrap_or(Ok(())))
    }

    fn send(&mut self, request: NftMessage, flags: u16) -> Result<Vec<Message>, HostError> {
        let mut bytes = Vec::new();
        wire::append(&mut bytes, request, flags, self.sequence);
        exchange::exchange(&self.socket, &bytes)
    }
}

/// Whether a message, of a list or of news, is about our table or something in it.
pub(crate) fn is_of_our_table(message: &NftMessage) -> bool {
    message.is_inet()
        && message.attribute(NFTA_TABLE).is_some_and(|name| wire::text(name) == NFT_TABLE)
}

/// The number that a transaction gave the rule set, of the message that ends the news of one.
pub(crate) fn generation(message: &NftMessage) -> Option<u32> {
    let is_one = message.nft_kind() == Some(NFT_MSG_NEWGEN);
    message.attribute(NFTA_GEN_ID).filter(|_| is_one).and_then(wire::number)
}

/// Whether one number of the rule set came after another. Numbers go round.
const fn is_after(generation: u32, other: u32) -> bool {
    generation.wrapping_sub(other).cast_signed() > 0
}

/// The kernel leaves out 0 (`nf_tables_commit`, `net/netfilter/nf_tables_api.c`).
const fn next_generation(generation: u32) -> u32 {
    match generation.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}

fn socket() -> io::Result<Socket> {
    let socket = exchange::socket(NETLINK_NETFILTER)?;
    // A transaction is one datagram. Beyond the system's limit if we may (CAP_NET_ADMIN), which a write needs anyway.
    let _ = sockopt::set_socket_send_buffer_size_force(&socket, BUFFER);
    let _ = sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER);
    Ok(socket)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

const WHAT: &str = "nftables table";

/// How often the table is read while others change the rule set.
const ATTEMPTS: u32 = 10;

/// Bytes, which hold a transaction of some hundred thousand prefixes.
const BUFFER: usize = 16 << 20;

#[cfg(test)]
mod tests;
