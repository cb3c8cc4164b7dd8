//! What a runtime is told when something fails (CNI specification 1.1, "Error").

use std::fmt::Display;
use std::io;

use serde_json::{Value, json};

use super::VERSIONS;

/// The codes of the specification, and ours from 100 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Version = 1,
    Environment = 4,
    Io = 5,
    Decode = 6,
    Config = 7,
    Later = 11,
    NotAvailable = 50,
    Lost = 100,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Code,
    message: String,
    /// The version that the runtime speaks, once that is known.
    version: String,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        let newest = VERSIONS[VERSIONS.len() - 1];
        Self { code, message: message.into(), version: newest.to_owned() }
    }

    /// What makes one of what the system says.
    pub(super) fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(Code::Io, format!("{what}: {error}"))
    }

    pub(super) fn in_version(self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "cniVersion": self.version,
            "code": self.code as u32,
            "msg": format!("wireloom: {}", self.message),
        })
    }
}
