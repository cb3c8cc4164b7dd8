//! Sockets of the parts of the kernel that answer while they are asked: nftables, WireGuard, and single links.

use std::io;

use netlink_packet_core::{NetlinkDeserializable, NetlinkMessage};
use netlink_sys::Socket;

use crate::error::HostError;

/// A socket of this netlink protocol in the network namespace of the calling thread.
pub(crate) fn socket(protocol: isize) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    // Services of newer kernels that nothing here depends on: explanations with errors, errors without the request.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    Ok(socket)
}

/// Sends and reads all replies. The kernel works and replies while a message is sent, and tells the next part of a list
/// when one is read, so what is not there then never comes.
pub(crate) fn exchange<M: NetlinkDeserializable>(
    socket: &Socket,
    bytes: &[u8],
) -> Result<Vec<NetlinkMessage<M>>, HostError> {
    socket.send(bytes, 0).map_err(HostError::Socket)?;
    let mut replies = Vec::new();
    // The kernel tells a list in parts as large as the largest buffer so far, and goes through a set from its beginning
    // for each.
    let mut datagram = Vec::with_capacity(PART);
    loop {
        datagram.clear();
        match socket.recv(&mut datagram, 0) {
            Ok(_) => replies.extend(messages(&datagram)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(replies),
            Err(error) => return Err(HostError::Socket(error)),
        }
    }
}

/// The messages of a datagram, up to one that is cut short.
pub(crate) fn messages<M: NetlinkDeserializable>(mut datagram: &[u8]) -> Vec<NetlinkMessage<M>> {
    let mut messages = Vec::new();
    while let Ok(message) = NetlinkMessage::deserialize(datagram) {
        let length = message.header.length as usize;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        messages.push(message);
    }
    messages
}

/// Bytes, of which the kernel fills 32 KiB at most (`netlink_recvmsg`, `net/netlink/af_netlink.c`).
const PART: usize = 64 << 10;
