//! Text to values. A request is read whole before anything of it is applied.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use std::time::Duration;

use wireloom_model::{Cidr, InterfaceAddress, PresharedKey, PrivateKey, PublicKey};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    DROP, DeviceStatus, ENGINE, OFF, OFFLOAD, ON, PathStatus, PeerStatus, Request, SetDevice,
    SetPeer,
};

/// Why a text is no request or answer. The value of a secret is left out of the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {key:?} {kind}")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// The key of the line; empty if it has none.
    pub key: String,
    /// What is wrong with it.
    pub kind: ErrorKind,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such key is known at this place.
    #[error("is no key of the protocol here")]
    Key,
    /// The line does not read `key=value`.
    #[error("is no line of the form key=value")]
    Line,
    /// The text ended too early.
    #[error("is missing")]
    Missing,
    /// The value of a secret does not parse.
    #[error("needs 64 hexadecimal digits")]
    Secret,
    /// The value does not parse.
    #[error("cannot be {value:?}; it needs {needs}")]
    Value {
        /// The value.
        value: String,
        /// What it has to be.
        needs: &'static str,
    },
}

/// Why a device's answer brought nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The device refused the request.
    #[error("the device refused the request with error number {0}")]
    Errno(i32),
    /// The answer can't be understood.
    #[error("the device's answer: {0}")]
    Parse(#[from] ParseError),
}

impl Request {
    /// Reads a request, up to the empty line that ends it or the end of the text. A link-local endpoint's scope must be
    /// a number; see [`parse_with`](Self::parse_with).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Self::parse_with(text, |_| None)
    }

    /// Reads a request; `scope` turns a link's name, as in `[fe80::1%eth0]:51820`, into its index.
    pub fn parse_with(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Result<Self, ParseError> {
        let mut lines = Lines::new(text);
        match lines.next()? {
            Some(Line { key: "get", value: "1", .. }) => match lines.next()? {
                None => Ok(Self::Get),
                Some(line) => Err(line.error(ErrorKind::Key)),
            },
            Some(Line { key: "set", value: "1", .. }) => set(lines, &scope).map(Self::Set),
            Some(line @ Line { key: "get" | "set", .. }) => Err(line.bad_value("1")),
            Some(line) => Err(line.error(ErrorKind::Key)),
            None => Err(lines.missing("get or set")),
        }
    }
}

impl FromStr for Request {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl DeviceStatus {
    /// Reads the answer to `get=1`. Keys that are not known are skipped: a newer device may say more.
    pub fn parse(text: &str) -> Result<Self, ResponseError> {
        let mut lines = Lines::new(text);
        let mut device = Self::default();
        let mut errno = None;
        while let Some(line) = lines.next()? {
            match (line.key, device.peers.last_mut()) {
                ("private_key", None) => {
                    device.private_key = line.secret()?.map(|key| PrivateKey::from_bytes(*key));
                }
                ("listen_port", None) => device.listen_port = line.number()?,
                ("fwmark", None) => device.fwmark = line.number()?,
                ("public_key", _) => device.peers.push(PeerStatus::new(line.public_key()?)),
                ("errno", _) => errno = Some(line.errno()?),
                (_, Some(peer)) => status_of_peer(peer, &line)?,
                (_, None) => status_of_path(&mut device.path, &line)?,
            }
        }
        match errno {
            Some(0) => Ok(device),
            Some(number) => Err(ResponseError::Errno(number)),
            None => Err(lines.missing("errno").into()),
        }
    }
}

impl SetDevice {
    /// Reads the answer to this request; error numbers of either sign are understood.
    pub fn parse_response(text: &str) -> Result<(), ResponseError> {
        let mut lines = Lines::new(text);
        match lines.next()? {
            Some(line @ Line { key: "errno", .. }) => match line.errno()? {
                0 => Ok(()),
                number => Err(ResponseError::Errno(number)),
            },
            Some(line) => Err(line.error(ErrorKind::Key).into()),
            None => Err(lines.missing("errno").into()),
        }
    }
}

fn set(mut lines: Lines<'_>, scope: Scope<'_>) -> Result<SetDevice, ParseError> {
    let mut device = SetDevice::default();
    while let Some(line) = lines.next()? {
        match (line.key, device.peers.last_mut()) {
            ("public_key", _) => device.peers.push(SetPeer::new(line.public_key()?)),
            ("private_key", None) => {
                let key = line.secret()?;
                device.private_key = Some(key.map(|key| PrivateKey::from_bytes(*key)));
            }
            ("listen_port", None) => device.listen_port = Some(line.number()?),
            ("fwmark", None) => device.fwmark = Some(line.number()?),
            ("replace_peers", None) => device.replace_peers = line.truth()?,
            (_, Some(peer)) => change_of_peer(peer, &line, scope)?,
            _ => return Err(line.error(ErrorKind::Key)),
        }
    }
    Ok(device)
}

fn change_of_peer(peer: &mut SetPeer, line: &Line<'_>, scope: Scope<'_>) -> Result<(), ParseError> {
    match line.key {
        "remove" => peer.remove = line.truth()?,
        "update_only" => peer.update_only = line.truth()?,
        "preshared_key" => {
            let key = line.secret()?;
            peer.preshared_key = Some(key.map(|key| PresharedKey::from_bytes(*key)));
        }
        "endpoint" => peer.endpoint = Some(line.endpoint(scope)?),
        "persistent_keepalive_interval" => peer.persistent_keepalive = Some(line.number()?),
        "replace_allowed_ips" => {
            // What came before this line is replaced too.
            peer.replace_allowed_ips = line.truth()?;
            peer.allowed_ips.clear();
            peer.removed_allowed_ips.clear();
        }
        "allowed_ip" => match line.value.strip_prefix('-') {
            Some(text) => {
                let prefix = line.prefix(text)?;
                peer.allowed_ips.remove(&prefix);
                peer.removed_allowed_ips.insert(prefix);
            }
            None => {
                peer.allowed_ips.insert(line.prefix(line.value)?);
            }
        },
        "protocol_version" if line.value == "1" => {}
        "protocol_version" => return Err(line.bad_value("1")),
        _ => return Err(line.error(ErrorKind::Key)),
    }
    Ok(())
}

fn status_of_path(path: &mut PathStatus, line: &Line<'_>) -> Result<(), ParseError> {
    if line.key == ENGINE {
        path.engine = Some(line.value.to_owned());
    } else if let Some(name) = line.key.strip_prefix(OFFLOAD) {
        path.offloads.insert(name.to_owned(), line.switch()?);
    } else if let Some(reason) = line.key.strip_prefix(DROP) {
        path.drops.insert(reason.to_owned(), line.number()?);
    }
    Ok(())
}

fn status_of_peer(peer: &mut PeerStatus, line: &Line<'_>) -> Result<(), ParseError> {
    let handshake = peer.last_handshake.unwrap_or_default();
    let time = |time: Duration| Some(time).filter(|time| !time.is_zero());
    match line.key {
        "preshared_key" => {
            peer.preshared_key = line.secret()?.map(|key| PresharedKey::from_bytes(*key));
        }
        "endpoint" => peer.endpoint = Some(line.endpoint(&|_| None)?),
        "last_handshake_time_sec" => {
            peer.last_handshake = time(Duration::new(line.number()?, handshake.subsec_nanos()));
        }
        "last_handshake_time_nsec" => {
            let nanos = line.number()?;
            if nanos >= 1_000_000_000 {
                return Err(line.bad_value("nanoseconds below one second"));
            }
            peer.last_handshake = time(Duration::new(handshake.as_secs(), nanos));
        }
        "tx_bytes" => peer.tx_bytes = line.number()?,
        "rx_bytes" => peer.rx_bytes = line.number()?,
        "persistent_keepalive_interval" => peer.persistent_keepalive = line.number()?,
        "allowed_ip" => {
            peer.allowed_ips.insert(line.prefix(line.value)?);
        }
        _ => {}
    }
    Ok(())
}

type Scope<'a> = &'a dyn Fn(&str) -> Option<u32>;

struct Lines<'a> {
    lines: std::str::Split<'a, char>,
    number: usize,
}

struct Line<'a> {
    number: usize,
    key: &'a str,
    value: &'a str,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Self { lines: text.split('\n'), number: 0 }
    }

    /// The next line; `None` at the empty line that ends the text.
    fn next(&mut self) -> Result<Option<Line<'a>>, ParseError> {
        let Some(text) = self.lines.next().filter(|line| !line.is_empty()) else { return Ok(None) };
        self.number += 1;
        let number = self.number;
        match text.split_once('=') {
            Some((key, value)) => Ok(Some(Line { number, key, value })),
            // The text is left out: it may be a secret with a typing error.
            None => Err(ParseError { line: number, key: String::new(), kind: ErrorKind::Line }),
        }
    }

    fn missing(&self, key: &str) -> ParseError {
        ParseError { line: self.number + 1, key: key.to_owned(), kind: ErrorKind::Missing }
    }
}

impl Line<'_> {
    fn error(&self, kind: ErrorKind) -> ParseError {
        ParseError { line: self.number, key: self.key.to_owned(), kind }
    }

    fn bad_value(&self, needs: &'static str) -> ParseError {
        self.error(ErrorKind::Value { value: self.value.to_owned(), needs })
    }

    /// 32 bytes; all zero means none.
    fn secret(&self) -> Result<Option<Zeroizing<[u8; 32]>>, ParseError> {
        let mut bytes = Zeroizing::new([0; 32]);
        if hex::decode_to_slice(self.value, bytes.as_mut()).is_err() {
            bytes.zeroize();
            return Err(self.error(ErrorKind::Secret));
        }
        Ok(Some(bytes).filter(|bytes| **bytes != [0; 32]))
    }

    fn public_key(&self) -> Result<PublicKey, ParseError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(self.value, &mut bytes)
            .map_err(|_| self.bad_value("64 hexadecimal digits"))?;
        Ok(PublicKey::from_bytes(bytes))
    }

    /// A plain decimal number: no sign, no blank.
    fn number<T: FromStr>(&self) -> Result<T, ParseError> {
        let plain = self.value.bytes().all(|byte| byte.is_ascii_digit());
        let number = if plain { self.value.parse().ok() } else { None };
        number.ok_or_else(|| self.bad_value("a plain decimal number in the key's range"))
    }

    /// The error number without its sign.
    fn errno(&self) -> Result<i32, ParseError> {
        let number = self.value.parse::<i32>().ok().and_then(i32::checked_abs);
        number.ok_or_else(|| self.bad_value("an error number"))
    }

    fn truth(&self) -> Result<bool, ParseError> {
        if self.value == "true" { Ok(true) } else { Err(self.bad_value("true")) }
    }

    fn switch(&self) -> Result<bool, ParseError> {
        match self.value {
            ON => Ok(true),
            OFF => Ok(false),
            _ => Err(self.bad_value("on or off")),
        }
    }

    /// A prefix; host bits are dropped, as the kernel does.
    fn prefix(&self, text: &str) -> Result<Cidr, ParseError> {
        match text.parse::<InterfaceAddress>() {
            Ok(address) if text.contains('/') => Ok(address.network()),
            _ => Err(self.bad_value("an address with a prefix length, as in 10.0.0.0/24")),
        }
    }

    fn endpoint(&self, scope: Scope<'_>) -> Result<SocketAddr, ParseError> {
        let scoped = || -> Option<SocketAddr> {
            let (host, port) = self.value.strip_prefix('[')?.rsplit_once("]:")?;
            let (address, link) = host.split_once('%')?;
            let port =
                port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
            Some(SocketAddrV6::new(address.parse().ok()?, port, 0, scope(link)?).into())
        };
        let endpoint = self.value.parse::<SocketAddr>().ok().or_else(scoped);
        endpoint
            .filter(|endpoint| endpoint.port() != 0 && is_unicast(endpoint.ip()))
            .ok_or_else(|| self.bad_value("an address and a port, as in [2001:db8::1]:51820"))
    }
}

/// Whether one host can be meant. The broadcast address of a network can't be told apart here.
fn is_unicast(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast()
}
