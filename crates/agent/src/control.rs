//! The agent's own socket: one JSON request a line, one JSON answer a line, for `wireloom status`, `graph` and `down`.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use wireloom_model::InterfaceName;

use crate::handover::Heirs;
use crate::showconf::Ask;

/// Where the sockets of running agents stand, one per interface.
pub const RUN_DIRECTORY: &str = "/run/wireloom";

/// What can be asked of a running agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Leave the mesh, clean up and end. Answered before it happens.
    Down,
    /// The graph of the whole mesh, as text.
    Graph {
        /// The form of the text.
        format: GraphFormat,
    },
    /// The mesh as it is known. Its answer may hold preshared keys.
    Mesh,
    /// Look at the pods that came and went. Answered before it happens.
    Pods,
    /// A configuration for a device elsewhere. Its answer may hold a preshared key.
    Showconf(Ask),
    /// What the node does and sees.
    Status,
    /// Hand over to who asks once it is told to stop: see [`Legacy`](crate::handover::Legacy). Answered only then.
    Succeed,
}

/// The forms of a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphFormat {
    /// Graphviz's language.
    Dot,
    /// Its data.
    Json,
    /// Graphviz's language, by Kilo's algorithm and laid out as `kgctl graph` does.
    Kgctl,
    /// Mermaid's language.
    Mermaid,
    /// A picture.
    Svg,
}

/// Why a control socket can't be had or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The answer is not what was asked for.
    #[error("{}: the agent answered something else than asked: {reason}", socket.display())]
    Answer {
        /// The socket's path.
        socket: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another agent listens there.
    #[error(
        "{}: an agent for this interface runs already{}; stop it by `wireloom down`",
        socket.display(),
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The socket's path.
        socket: PathBuf,
        /// The agent's process, unless it can't be seen from here.
        pid: Option<i32>,
    },
    /// The socket can't be made, reached or read.
    #[error("{}: {error}", socket.display())]
    Io {
        /// The socket's path.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Nobody listens there.
    #[error("{}: no agent runs for this interface; start one by `wireloom up`", socket.display())]
    NotRunning {
        /// The socket's path.
        socket: PathBuf,
    },
    /// The agent can't answer that.
    #[error("{}: {reason}", socket.display())]
    Refused {
        /// The socket's path.
        socket: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// A control socket that is listened on, removed when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    socket: PathBuf,
}

/// The path of an interface's control socket.
pub fn socket_path(directory: &Path, interface: &InterfaceName) -> PathBuf {
    directory.join(format!("{interface}.sock"))
}

/// Who listens at a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// An agent.
    Agent {
        /// Its process, unless it can't be seen from here.
        pid: Option<i32>,
    },
    /// Nobody: there is no socket, or whoever made it has ended.
    Nobody,
}

/// Who listens at the path. The kernel remembers for a socket which process began to listen (`SO_PEERCRED`, unix(7)).
pub async fn listener(socket: &Path) -> Listener {
    match UnixStream::connect(socket).await {
        // 0 stands for a process of another PID namespace.
        Ok(stream) => Listener::Agent {
            pid: stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid != 0),
        },
        // A queue that is full is somebody's.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Listener::Agent { pid: None },
        Err(_) => Listener::Nobody,
    }
}

impl ControlSocket {
    /// Listens at the path, for the owner alone. A socket that a dead agent left is replaced.
    pub async fn bind(socket: &Path) -> Result<Self, ControlError> {
        let io = |error| ControlError::Io { socket: socket.to_owned(), error };
        if let Some(directory) = socket.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(io)?;
        }
        if let Listener::Agent { pid } = listener(socket).await {
            return Err(ControlError::InUse { socket: socket.to_owned(), pid });
        }
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        let listener = UnixListener::bind(socket).map_err(io)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600)).map_err(io)?;
        Ok(Self { listener, socket: socket.to_owned() })
    }

    /// Answers requests for ever: `answer` turns each into the JSON text of its answer, and whoever wants to
    /// [succeed](Request::Succeed) joins the heirs.
    pub(crate) async fn serve(
        &self,
        answer: impl Fn(Request) -> String + Clone + Send + 'static,
        heirs: Heirs,
    ) {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (answer, heirs) = (answer.clone(), heirs.clone());
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, answer, heirs).await {
                            tracing::debug!(%error, "a control connection ended early");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket could not accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.socket) {
            tracing::debug!(socket = %self.socket.display(), %error, "the control socket was gone already");
        }
    }
}

/// The longest request line that is read, in bytes.
const REQUEST_BYTES: u64 = 4096;

async fn converse(
    mut stream: UnixStream,
    answer: impl Fn(Request) -> String,
    heirs: Heirs,
) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut stream).take(REQUEST_BYTES)).read_line(&mut line).await?;
    let text = match serde_json::from_str(&line) {
        Ok(Request::Succeed) => return heirs.add(stream),
        Ok(request) => answer(request),
        Err(error) => {
            serde_json::json!({ "error": format!("no such request: {error}") }).to_string()
        }
    };
    stream.write_all(text.as_bytes()).await?;
    stream.write_all(b"\n").await?;
    stream.shutdown().await
}

/// The answer to a request that can't be met.
pub(crate) fn error(reason: impl std::fmt::Display) -> String {
    serde_json::json!({ "error": reason.to_string() }).to_string()
}

/// Asks the agent that listens at the path.
pub async fn ask<T: DeserializeOwned>(socket: &Path, request: Request) -> Result<T, ControlError> {
    let io = |error| ControlError::Io { socket: socket.to_owned(), error };
    let wrong = |reason: String| ControlError::Answer { socket: socket.to_owned(), reason };
    let mut stream = connect(socket).await?;
    let line = serde_json::to_string(&request).map_err(|error| wrong(error.to_string()))?;
    stream.write_all(format!("{line}\n").as_bytes()).await.map_err(io)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.map_err(io)?;
    let answer: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    if let Some(reason) = answer.get("error").and_then(serde_json::Value::as_str) {
        return Err(ControlError::Refused { socket: socket.to_owned(), reason: reason.to_owned() });
    }
    serde_json::from_value(answer).map_err(|error| wrong(error.to_string()))
}

pub(crate) async fn connect(socket: &Path) -> Result<UnixStream, ControlError> {
    UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning { socket: socket.to_owned() }
        }
        _ => ControlError::Io { socket: socket.to_owned(), error },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_gets_its_answer_and_a_second_agent_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = socket_path(directory.path(), &"wl0".parse().unwrap());
        assert!(matches!(
            ask::<String>(&path, Request::Status).await,
            Err(ControlError::NotRunning { .. })
        ));

        let socket = ControlSocket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let answer = |request| format!("\"{request:?}\"");
        let server = tokio::spawn(async move { socket.serve(answer, Heirs::default()).await });
        assert_eq!(ask::<String>(&path, Request::Down).await.unwrap(), "Down");
        assert!(matches!(
            ask::<u8>(&path, Request::Status).await,
            Err(ControlError::Answer { .. })
        ));
        let own = i32::try_from(std::process::id()).ok();
        match ControlSocket::bind(&path).await {
            Err(error @ ControlError::InUse { pid, .. }) => {
                assert_eq!(pid, own);
                assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }

        server.abort();
        let _ = server.await;
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("wl0.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(ControlSocket::bind(&path).await.is_ok());
    }
}
