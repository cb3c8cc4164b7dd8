//! What an agent leaves to the one that takes its place on the same machine.
//!
//! The new one asks the old one for it over the control socket, and stands by until that is told to stop. Then the old
//! one lets go of ports and sockets, leaves everything in the kernel as it is, and hands over the open TUN device and
//! where its peers are: addresses and routes stay, what is sent meanwhile waits in the device's queue, and all that
//! peers notice is another handshake.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recv, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use wireloom_model::{PublicKey, Snapshot};

use crate::control::{ControlError, Request, connect};

/// How long the old agent waits for the new one to take what it hands over.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many queues a device may have to be handed over: as many descriptors as go in one message (`SCM_MAX_FD`,
/// net/scm.h).
pub const QUEUES: usize = 253;

/// What is handed over.
#[derive(Debug, Default)]
pub struct Legacy {
    /// The open queues of the TUN device, if it was the agent's own.
    pub(crate) queues: Vec<OwnedFd>,
    pub(crate) words: Words,
}

/// The part of it that is text.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Words {
    /// The mesh that is in force.
    pub(crate) mesh: Option<Snapshot>,
    /// Where the device heard those peers whose sessions were in use.
    pub(crate) heard: BTreeMap<PublicKey, SocketAddr>,
}

/// Who stands by to take an agent's place, the latest last. All clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heirs(Arc<Mutex<Vec<UnixStream>>>);

impl Heirs {
    /// Adds one. Those that are gone meanwhile are let go.
    ///
    /// # Errors
    ///
    /// If its connection can't be used.
    pub(crate) fn add(&self, heir: tokio::net::UnixStream) -> io::Result<()> {
        let heir = heir.into_std()?;
        let mut heirs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heirs.retain(is_there);
        heirs.push(heir);
        Ok(())
    }

    /// Those that are still there.
    pub(crate) fn take(&self) -> Vec<UnixStream> {
        let mut heirs = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        heirs.retain(is_there);
        heirs
    }
}

/// Whether the other end is open. It says nothing while it waits.
fn is_there(heir: &UnixStream) -> bool {
    let peeked = recv(heir, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
    match peeked {
        Ok((_, length)) => length > 0,
        Err(error) => error == Errno::WOULDBLOCK,
    }
}

impl Legacy {
    /// Waits for as long as another agent listens at this path, and returns what that hands over. `None` if there is no
    /// other, or it ended otherwise. Dropping the future means that nobody stands by.
    ///
    /// # Errors
    ///
    /// If the socket can't be used, or the other agent knows nothing of handing over.
    pub async fn await_from(socket: &Path) -> Result<Option<Self>, ControlError> {
        let failed = |error| ControlError::Io { socket: socket.to_owned(), error };
        let mut stream = match connect(socket).await {
            Ok(stream) => stream,
            Err(ControlError::NotRunning { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let line =
            serde_json::to_string(&Request::Succeed).map_err(|error| failed(error.into()))?;
        stream.write_all(format!("{line}\n").as_bytes()).await.map_err(failed)?;
        tracing::info!(socket = %socket.display(), "another agent runs; this one stands by until it stops");
        // Awaited here, where it can be given up, and read there, where it is whole in a moment.
        stream.readable().await.map_err(failed)?;
        let stream = stream.into_std().map_err(failed)?;
        let received = tokio::task::spawn_blocking(move || Self::receive(&stream)).await;
        match received.map_err(io::Error::other).and_then(|received| received) {
            Ok(legacy) => Ok(legacy),
            Err(error) => Err(failed(error)),
        }
    }

    /// The mesh that was in force.
    pub const fn mesh(&self) -> Option<&Snapshot> {
        self.words.mesh.as_ref()
    }

    /// Gives it to who stands by. From the first part on, in which all queues go, that one has taken it, whatever it hears
    /// of the rest: nobody else may have the same queues, and the device is no longer this agent's to take down.
    ///
    /// # Errors
    ///
    /// If that one is gone.
    pub(crate) fn send(&self, heir: &UnixStream) -> io::Result<()> {
        heir.set_nonblocking(false)?;
        heir.set_write_timeout(Some(PATIENCE))?;
        let words = serde_json::to_vec(&self.words)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(QUEUES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let queues: Vec<BorrowedFd<'_>> = self.queues.iter().map(OwnedFd::as_fd).collect();
        if !queues.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&queues)) {
            return Err(io::Error::other(format!(
                "{} queues are more than can be handed over",
                queues.len()
            )));
        }
        let sent = sendmsg(heir, &[IoSlice::new(&words)], &mut ancillary, SendFlags::NOSIGNAL)?;
        let mut stream = heir;
        let rest = words.get(sent..).unwrap_or_default();
        let told = stream.write_all(rest).and_then(|()| heir.shutdown(std::net::Shutdown::Write));
        if let Err(error) = told {
            tracing::warn!(%error, "who takes over may not have heard all; it learns the mesh anew");
        }
        Ok(())
    }

    fn receive(mut stream: &UnixStream) -> io::Result<Option<Self>> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut words = vec![0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(QUEUES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut words)];
        let length = recvmsg(stream, parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let mut queues = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                queues.extend(descriptors);
            }
        }
        words.truncate(length);
        let read = stream.read_to_end(&mut words);
        if queues.is_empty() && words.is_empty() {
            return read.map(|_| None);
        }
        // The open device is worth more than what is said of it: the mesh is told anew, and peers are found again.
        let words =
            read.map_err(serde_json::Error::io).and_then(|_| serde_json::from_slice(&words));
        let words = words.unwrap_or_else(|error| {
            tracing::warn!(%error, "what the other agent says of the mesh is of no use; it is learnt anew");
            Words::default()
        });
        Ok(Some(Self { queues, words }))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_descriptor_and_more_words_than_one_message_holds_arrive() {
        let (heir, stream) = UnixStream::pair().unwrap();
        let (read, mut write) = io::pipe().unwrap();
        let key = |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            PublicKey::from_bytes(bytes)
        };
        let endpoint = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        let heard: BTreeMap<_, _> = (1..3000).map(|n| (key(n), endpoint(n))).collect();
        let words = Words { mesh: None, heard: heard.clone() };
        let legacy = Legacy { queues: vec![read.into()], words };
        let mut received = std::thread::scope(|scope| {
            scope.spawn(|| legacy.send(&stream).unwrap());
            Legacy::receive(&heir).unwrap().unwrap()
        });
        assert_eq!(received.words.heard, heard);
        write.write_all(b"x").unwrap();
        let mut byte = [0];
        File::from(received.queues.pop().unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[test]
    fn whoever_has_the_queues_has_taken_them_even_if_it_hears_no_more() {
        let (mut heir, stream) = UnixStream::pair().unwrap();
        // The words do not fit into it, so that some are left when the other end is closed.
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, 4096).unwrap();
        let (read, _write) = io::pipe().unwrap();
        let endpoint = SocketAddr::from(([192, 0, 2, 1], 51820));
        let key = |n: u16| {
            let mut bytes = [0; 32];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            PublicKey::from_bytes(bytes)
        };
        let heard = (1..3000).map(|n| (key(n), endpoint)).collect();
        let words = Words { mesh: None, heard };
        let legacy = Legacy { queues: vec![read.into()], words };
        std::thread::scope(|scope| {
            // It closes its end after the first byte.
            scope.spawn(move || heir.read_exact(&mut [0]).unwrap());
            legacy.send(&stream).unwrap();
        });
        // Nothing has gone to who is gone before.
        legacy.send(&stream).unwrap_err();
    }

    #[test]
    fn queues_are_taken_whatever_is_said_with_them() {
        let (heir, stream) = UnixStream::pair().unwrap();
        let (read, mut write) = io::pipe().unwrap();
        let queues = [read.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&queues)));
        let words = [IoSlice::new(b"{\"mesh\":\"of another version\"}")];
        sendmsg(&stream, &words, &mut ancillary, SendFlags::empty()).unwrap();
        drop(stream);
        let mut received = Legacy::receive(&heir).unwrap().unwrap();
        assert!(received.words.mesh.is_none() && received.words.heard.is_empty());
        write.write_all(b"x").unwrap();
        let mut byte = [0];
        File::from(received.queues.pop().unwrap()).read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[tokio::test]
    async fn who_is_gone_stands_by_no_longer() {
        let heirs = Heirs::default();
        let stand_by = || {
            let (there, here) = tokio::net::UnixStream::pair().unwrap();
            heirs.add(here).unwrap();
            there
        };
        drop(stand_by());
        assert!(heirs.take().is_empty());

        let first = stand_by();
        drop((0..100).map(|_| stand_by()).collect::<Vec<_>>());
        let last = stand_by();
        assert_eq!(heirs.0.lock().unwrap().len(), 2, "their connections are closed here too");
        drop(first);
        assert_eq!(heirs.take().len(), 1);
        drop(last);
    }

    #[test]
    fn an_end_without_words_is_no_legacy() {
        let (heir, stream) = UnixStream::pair().unwrap();
        drop(stream);
        assert!(Legacy::receive(&heir).unwrap().is_none());
    }
}
