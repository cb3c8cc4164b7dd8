//! One socket a queue on the same port, and which of them a message arrives at.
//!
//! All messages to one peer of ours arrive at one queue, so that whoever opens them does so in order. The receiver's index
//! in a message tells the peer (WireGuard paper, section 5.4): its three upper bytes are the peer's, and the lowest of these
//! counts up from peer to peer (`wireloom_tunnel::Device`), so that peers spread evenly. An initiation names no receiver
//! yet; those arrive at the first queue.

use std::num::NonZeroUsize;
use std::sync::Arc;

use super::{BindError, UdpOffloads, UdpSocket};
use crate::sys;

/// Where the peer's byte is in a response.
const PEER_IN_RESPONSE: u32 = 9;
/// Where it is in a cookie reply and in data.
const PEER_IN_OTHERS: u32 = 5;

/// Binds a socket for each queue; none if the kernel lacks the family.
///
/// Only the first is refused where another socket has the port: the others may share it, as the first does from then on,
/// with sockets of the same user that ask for that as well.
pub(super) fn bind(
    is_v4: bool,
    port: u16,
    queues: NonZeroUsize,
    proven: UdpOffloads,
) -> Result<Vec<Arc<UdpSocket>>, BindError> {
    let Some(first) = UdpSocket::bind(is_v4, port, None, proven)? else { return Ok(Vec::new()) };
    let mut sockets = vec![Arc::new(first)];
    if queues.get() == 1 {
        return Ok(sockets);
    }
    let system = |deed| move |source| BindError::System { port, deed, source };
    let first = Arc::clone(&sockets[0]);
    let port = first.port().map_err(system("port"))?;
    first.socket.set_reuse_port(true).map_err(system("SO_REUSEPORT"))?;
    for _ in 1..queues.get() {
        sockets.extend(UdpSocket::bind(is_v4, port, Some(&first), proven)?.map(Arc::new));
    }
    let program = steering(queues);
    sys::steer(rustix::fd::AsFd::as_fd(&*first), &program).map_err(system("steering"))?;
    Ok(sockets)
}

/// A classic BPF program over a UDP payload that returns the number of the queue. What is too short for it goes to the
/// first.
fn steering(queues: NonZeroUsize) -> [libc::sock_filter; 9] {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_B, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_MOD, BPF_RET,
    };
    const BPF_A: u32 = 0x10;
    const RESPONSE: u32 = 2;
    let code = |code, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let byte = |at| code(BPF_LD | BPF_B | BPF_ABS, 0, 0, at);
    [
        byte(0),
        code(BPF_JMP | BPF_JEQ | BPF_K, 3, 0, RESPONSE),
        code(BPF_JMP | BPF_JGE | BPF_K, 0, 5, RESPONSE),
        byte(PEER_IN_OTHERS),
        code(BPF_JMP | BPF_JA, 0, 0, 1),
        byte(PEER_IN_RESPONSE),
        code(BPF_ALU | BPF_MOD | BPF_K, 0, 0, u32::try_from(queues.get()).unwrap_or(u32::MAX)),
        code(BPF_RET | BPF_A, 0, 0, 0),
        code(BPF_RET | BPF_K, 0, 0, 0),
    ]
}
