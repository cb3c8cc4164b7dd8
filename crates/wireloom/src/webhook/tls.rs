//! TLS for what the API asks.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a connection may say nothing. The API server asks whether it is alive more often than that.
const IDLE: Duration = Duration::from_secs(120);

/// The most connections at a time. Those beyond wait until another ends.
const MOST: usize = 256;

/// A certificate and its key, as they are in their files now.
pub(super) struct Certificate {
    files: [PathBuf; 2],
    written: [Option<SystemTime>; 2],
    acceptor: TlsAcceptor,
}

impl Certificate {
    pub(super) fn load(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let files = [certificate.to_owned(), key.to_owned()];
        // What is written from here on is read again.
        let written = written(&files);
        Ok(Self { acceptor: acceptor(certificate, key)?, files, written })
    }

    /// What takes the next connection. Files that are no certificate any more leave the last one in force.
    fn acceptor(&mut self) -> TlsAcceptor {
        let now = written(&self.files);
        if now != self.written {
            match acceptor(&self.files[0], &self.files[1]) {
                Ok(acceptor) => {
                    tracing::info!("the certificate has changed");
                    (self.acceptor, self.written) = (acceptor, now);
                }
                Err(error) => tracing::warn!("the last certificate stays: {error:#}"),
            }
        }
        self.acceptor.clone()
    }
}

fn written(files: &[PathBuf; 2]) -> [Option<SystemTime>; 2] {
    files.each_ref().map(|file| std::fs::metadata(file).ok()?.modified().ok())
}

fn acceptor(certificate: &Path, key: &Path) -> anyhow::Result<TlsAcceptor> {
    let read = || -> Result<Vec<_>, _> { CertificateDer::pem_file_iter(certificate)?.collect() };
    let chain = read().with_context(|| format!("{}: no certificate", certificate.display()))?;
    let private_key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("{}: no private key", key.display()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .with_context(|| format!("{} and {}", certificate.display(), key.display()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Connections whose handshake is done. One that dawdles keeps nobody else waiting.
pub(super) struct Listener {
    connections: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
}

impl Listener {
    pub(super) fn new(bound: TcpListener, certificate: Certificate) -> io::Result<Self> {
        let address = bound.local_addr()?;
        let (sender, connections) = mpsc::channel(16);
        tokio::spawn(accept(bound, certificate, sender));
        Ok(Self { connections, address })
    }
}

async fn accept(
    bound: TcpListener,
    mut certificate: Certificate,
    sender: mpsc::Sender<(Connection, SocketAddr)>,
) {
    let places = Arc::new(Semaphore::new(MOST));
    // Nobody closes it.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let (stream, address) = match bound.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, sender) = (certificate.acceptor(), sender.clone());
        tokio::spawn(async move {
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Fails only when nobody answers any more.
                Ok(Ok(stream)) => {
                    let connection =
                        Connection { stream, idle: Box::pin(sleep(IDLE)), _place: place };
                    drop(sender.send((connection, address)).await);
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "no handshake"),
                Err(_) => tracing::debug!(%address, "no handshake in time"),
            }
        });
    }
}

/// A connection that ends when it says nothing for too long.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    idle: Pin<Box<Sleep>>,
    /// Its place among those that there may be at a time.
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.idle.as_mut().reset(Instant::now() + IDLE);
        } else if self.idle.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
