//! What an agent says over HTTP: health, metrics, and a picture of the mesh.
//!
//! Whoever reaches it may read names, addresses and public keys of the whole mesh, and nothing can be changed by it.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Instant;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Deserialize;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

use crate::agent::AgentError;
use crate::control::GraphFormat;
use crate::view::SharedView;
use crate::{graph, metrics};

/// Where to listen for HTTP. Text: [places](Place), with commas between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(Vec<Place>);

/// A place to listen. Text: an address and a port, or a colon and a port for all addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// All addresses of both families.
    All(u16),
    /// One address.
    At(SocketAddr),
}

/// A text that is no [`Place`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{value:?} is no place to listen: write 127.0.0.1:1107, [::1]:1107, or :1107 for all addresses"
)]
pub struct ListenError {
    /// The text that was given.
    pub value: String,
}

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Place {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let port = |text: &str| text.parse().ok();
        let all = text.strip_prefix(':').and_then(port).map(Self::All);
        // Who fills in an address need not know its family: brackets may stand around either.
        let at = || {
            let (address, of_port) = text.strip_prefix('[')?.split_once("]:")?;
            Some(SocketAddr::new(address.parse().ok()?, port(of_port)?))
        };
        let at = || text.parse().ok().or_else(at).map(Self::At);
        all.or_else(at).ok_or_else(|| ListenError { value: text.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Listen {
    /// Begins to listen at each place.
    ///
    /// # Errors
    ///
    /// [`AgentError::Listen`] for the first place that can't be listened at.
    pub(crate) async fn bind(&self) -> Result<Vec<TcpListener>, AgentError> {
        let mut listeners = Vec::new();
        for place in &self.0 {
            let bound = place.bind().await;
            let bound = bound.map_err(|error| AgentError::Listen { place: *place, error })?;
            listeners.push(bound);
        }
        Ok(listeners)
    }

    /// Answers for the health of an agent that stands by, at those places where the one before it does not; never
    /// ends, and lets go of the places when it is dropped. Whoever replaces one by the other asks the new one where that is
    /// told to listen, and goes on only once it is well.
    pub async fn stand_by(&self) -> Infallible {
        let mut servers = JoinSet::new();
        for place in &self.0 {
            match place.bind().await {
                Ok(listener) => drop(servers.spawn(serve_standing_by(listener))),
                Err(error) => tracing::debug!(%place, %error, "not listened at yet"),
            }
        }
        // Those that end have told why.
        while servers.join_next().await.is_some() {}
        std::future::pending().await
    }
}

async fn serve_standing_by(listener: TcpListener) {
    let well = || async { "ok: stands by until the agent before it ends\n" };
    let router = Router::new()
        .route("/health", get(well))
        .route("/healthz", get(well))
        .route("/readyz", get(well));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!(%error, "nothing is answered over HTTP while this agent stands by");
    }
}

impl Place {
    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// What the system says to the socket.
    pub async fn bind(self) -> std::io::Result<TcpListener> {
        match self {
            Self::At(address) => listen_at(address),
            // A socket of IPv6 takes both families. A host may know one alone.
            Self::All(port) => {
                let (v6, v4) = (IpAddr::V6(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into());
                let addresses = [v6, v4].map(|address| SocketAddr::new(address, port));
                TcpListener::bind(&addresses[..]).await
            }
        }
    }
}

/// Listens at one address, which the host need not have yet: it may be one that the mesh gives it.
fn listen_at(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let options = SockRef::from(&socket);
    match address {
        SocketAddr::V4(_) => options.set_freebind_v4(true)?,
        SocketAddr::V6(_) => options.set_freebind_v6(true)?,
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// How many connections may wait to be taken: as many as tokio's own way to listen has.
const BACKLOG: u32 = 1024;

/// Answers for as long as the agent runs.
pub(crate) async fn serve(listener: TcpListener, view: SharedView) {
    let router = Router::new()
        .route("/", get(index))
        .route("/graph", get(picture))
        // Kilo's name for it.
        .route("/health", get(alive))
        .route("/healthz", get(alive))
        .route("/metrics", get(numbers))
        .route("/readyz", get(ready))
        .with_state(view);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "nothing is answered over HTTP any more");
    }
}

async fn index() -> &'static str {
    "/graph?format=svg|dot|json|mermaid\n/healthz\n/metrics\n/readyz\n"
}

async fn alive(State(view): State<SharedView>) -> Response {
    let health = { view.lock().vitals.health(Instant::now(), Ok(()), None) };
    match health.is_alive {
        true => "ok\n".into_response(),
        false => {
            (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop stands still\n").into_response()
        }
    }
}

async fn ready(State(view): State<SharedView>) -> Response {
    let view = view.lock().clone();
    // Asking a device in another process waits for it.
    let health = tokio::task::spawn_blocking(move || view.health()).await;
    match health {
        Ok(health) if health.is_ready() => health.text().into_response(),
        Ok(health) => (StatusCode::SERVICE_UNAVAILABLE, health.text()).into_response(),
        Err(error) => failed(&error),
    }
}

async fn numbers(State(view): State<SharedView>) -> Response {
    let view = view.lock().clone();
    let text = tokio::task::spawn_blocking(move || metrics::text(&view.sample())).await;
    match text {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

/// The layouts that Kilo has pictures in. Ours are rings, whichever is asked for.
const LAYOUTS: [&str; 5] = ["circo", "dot", "fdp", "neato", "twopi"];

/// What stands without a value counts as left out, as it does for Kilo.
#[derive(Deserialize)]
struct Picture {
    #[serde(default)]
    format: String,
    #[serde(default)]
    layout: String,
}

async fn picture(State(view): State<SharedView>, Query(asked): Query<Picture>) -> Response {
    let Picture { format, layout } = asked;
    // Kilo's answer to a value that it does not know is a 500.
    let unknown = |said: String| (StatusCode::INTERNAL_SERVER_ERROR, said).into_response();
    if !layout.is_empty() && !LAYOUTS.contains(&layout.as_str()) {
        let layouts = LAYOUTS.join(", ");
        return unknown(format!("{layout:?} is no layout of a graph: write one of {layouts}\n"));
    }
    let format = format.as_str();
    let (format, kind) = match format {
        "dot" | "gv" => (GraphFormat::Dot, "text/vnd.graphviz"),
        "json" => (GraphFormat::Json, "application/json"),
        "mermaid" => (GraphFormat::Mermaid, "text/plain; charset=utf-8"),
        "" | "svg" => (GraphFormat::Svg, "image/svg+xml"),
        _ => {
            let forms = "svg, dot, json or mermaid";
            return unknown(format!("{format:?} is no form of a graph: write {forms}\n"));
        }
    };
    let view = view.lock().clone();
    let Some(snapshot) = view.snapshot else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the mesh is not known yet\n").into_response();
    };
    let text =
        tokio::task::spawn_blocking(move || graph::text(&snapshot, &view.planner, format)).await;
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn soon<T>(what: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(30), what).await.expect("it takes a moment")
    }

    #[test]
    fn places_to_listen_are_read_as_kilo_writes_them() {
        assert_eq!(":1107".parse(), Ok(Place::All(1107)));
        for text in ["127.0.0.1:1107", "[::1]:1107", ":1107"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Listen>().unwrap().0.len(), 1);
        }
        for bad in ["", ":", "1107", "localhost:1107", ":70000", "::1:1107x", "[::1]", "[x]:1107"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
            assert!(format!("127.0.0.1:1107,{bad}").parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_of_either_family_may_be_filled_in_between_brackets() {
        for address in ["10.0.0.5", "fd00::5"] {
            let listen: Listen = format!("127.0.0.1:1107,[{address}]:1107").parse().unwrap();
            let there = SocketAddr::new(address.parse().unwrap(), 1107);
            assert_eq!(listen.0[1], Place::At(there));
        }
    }

    #[tokio::test]
    async fn an_address_that_the_host_gets_later_is_listened_at() {
        for address in ["192.0.2.77:0", "[2001:db8::77]:0"] {
            let place: Place = address.parse().unwrap();
            place.bind().await.unwrap();
        }
    }

    #[tokio::test]
    async fn one_that_stands_by_answers_where_the_other_does_not_and_leaves_the_place_to_itself() {
        let any = Place::At("127.0.0.1:0".parse().unwrap());
        let free = any.bind().await.unwrap().local_addr().unwrap();
        let other = any.bind().await.unwrap();
        let taken = other.local_addr().unwrap();
        let listen: Listen = format!("{taken},{free}").parse().unwrap();
        let ask = async {
            loop {
                if let Ok(mut stream) = TcpStream::connect(free).await {
                    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await.unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).await.unwrap();
                    break answer;
                }
                tokio::task::yield_now().await;
            }
        };
        let answer = tokio::select! {
            answer = soon(ask) => answer,
            never = listen.stand_by() => match never {},
        };
        assert!(answer.starts_with("HTTP/1.0 200") && answer.contains("stands by"), "{answer}");
        drop(other);
        let bound = async {
            loop {
                if let Ok(bound) = listen.bind().await {
                    break bound;
                }
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(soon(bound).await.len(), 2);
    }

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families_where_the_host_has_both() {
        let listener = Place::All(0).bind().await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
}
