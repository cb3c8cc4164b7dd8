//! How the agent hears that there is something to look at.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

/// How long a pod waits for the agent at most. One that is away, or does not answer, finds later what it missed.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The request, as the agent's control socket takes it.
const REQUEST: &[u8] = b"{\"verb\":\"pods\"}\n";

/// Asks the agent behind a socket to look, and waits for its answer.
pub(super) fn ring(path: &Path) -> io::Result<()> {
    let mut socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Each covers its part: connecting and writing, then reading.
    socket.set_write_timeout(Some(PATIENCE / 4))?;
    socket.set_read_timeout(Some(PATIENCE / 2))?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.write_all(REQUEST)?;
    // The answer is short, and that there is one is all that counts.
    socket.read(&mut [0; 64]).map(drop)
}
