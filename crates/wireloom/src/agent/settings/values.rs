//! Values of settings that nothing else reads.

use std::num::NonZeroU16;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use wireloom_topology::kilo::Plugin;

use crate::up::mark;

/// The MTU of the tunnel device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mtu {
    /// What the paths to others leave.
    #[default]
    Auto,
    /// As many bytes.
    Bytes(NonZeroU16),
}

impl Mtu {
    /// The bytes, if they are said.
    pub(crate) const fn bytes(self) -> Option<NonZeroU16> {
        match self {
            Self::Auto => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bytes = text.parse().ok().filter(|bytes: &NonZeroU16| bytes.get() >= 1280);
        bytes
            .map(Self::Bytes)
            .ok_or_else(|| format!("{text:?} is no MTU: write auto, or bytes from 1280 to 65535"))
    }
}

/// The bits that mark packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(pub(super) u32);

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        mark(text).map(Self)
    }
}

/// Where the mesh is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend;

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kubernetes" => Ok(Self),
            _ => {
                Err(format!("{text:?} is no place where a mesh is written down: write kubernetes"))
            }
        }
    }
}

/// The time between two looks, of at least a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Period(pub(crate) Duration);

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let time = humantime::parse_duration(text).ok();
        time.filter(|time| *time >= Duration::from_secs(1))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no time from a second on: write 30s or 1m30s"))
    }
}

/// Whose agents and plugins a mesh is shared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compatibility(pub(super) Option<Plugin>);

impl FromStr for Compatibility {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "kilo" => Ok(Self(None)),
            "cilium" => Ok(Self(Some(Plugin::Cilium))),
            "flannel" => Ok(Self(Some(Plugin::Flannel))),
            _ => Err(format!(
                "{text:?} is nobody to be compatible with: write kilo, flannel or cilium"
            )),
        }
    }
}
/// A value that reads as a word, written as one or as a number.
pub(super) fn word<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(i64),
        Text(String),
    }
    let text = match Written::deserialize(deserializer)? {
        Written::Number(number) => number.to_string(),
        Written::Text(text) => text,
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}
