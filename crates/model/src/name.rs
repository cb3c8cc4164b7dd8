//! Names as types of their own, so that a peer's name never stands where a node's is meant.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::text::serde_as_text;

/// Why a text is no name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no {kind}: {rule}")]
pub struct NameError {
    /// The text that was given.
    pub value: String,
    /// What it was meant to be.
    pub kind: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// Defines a string newtype whose only way in is its rule: a function that returns the rule broken, if any.
macro_rules! name {
    ($(#[$doc:meta])+ $type:ident, $kind:literal, $rule:path) => {
        $(#[$doc])+
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match $rule(text) {
                    None => Ok(Self(text.into())),
                    Some(rule) => Err(NameError { value: text.to_owned(), kind: $kind, rule }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        serde_as_text!($type);
    };
}

name!(
    /// The name of a node: a lower-case RFC 1123 subdomain, as Kubernetes names its Nodes.
    NodeName,
    "node name",
    subdomain
);
name!(
    /// The name of a peer outside the mesh: a lower-case RFC 1123 subdomain.
    PeerName,
    "peer name",
    subdomain
);
name!(
    /// A DNS name that an endpoint is reached by: RFC 1123, lower case.
    DnsName,
    "DNS name",
    dns_name
);
name!(
    /// The name of a place whose nodes reach each other directly. Any printable text; empty is a location too, as it
    /// is for Kilo (its `location` annotation).
    Location,
    "location",
    location
);
name!(
    /// The name of a network link (`dev_valid_name` in Linux's `net/core/dev.c`).
    InterfaceName,
    "interface name",
    interface
);

fn subdomain(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > 253 {
        return Some("it has 1 to 253 characters");
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.split('.').all(label) {
        None
    } else {
        Some(
            "it consists of labels of 1 to 63 characters a-z, 0-9 and -, not first or last, with dots between",
        )
    }
}

fn dns_name(text: &str) -> Option<&'static str> {
    let last = text.rsplit('.').next().unwrap_or_default();
    if !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) {
        return Some("its last label is all digits, so it reads like an IPv4 address");
    }
    subdomain(text)
}

fn location(text: &str) -> Option<&'static str> {
    if text.len() > 253 {
        Some("it has at most 253 bytes")
    } else if text.chars().any(char::is_control) {
        Some("it has no control characters")
    } else {
        None
    }
}

fn interface(text: &str) -> Option<&'static str> {
    if text.is_empty() || text.len() > 15 {
        Some("it has 1 to 15 bytes")
    } else if text == "." || text == ".." {
        Some("it is not . or ..")
    } else if text
        .bytes()
        .any(|b| matches!(b, b'/' | b':' | b'%') || b.is_ascii_whitespace() || b.is_ascii_control())
    {
        Some("it has no slash, colon, percent sign or white space")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_kubernetes_names() {
        for good in ["a", "node-1", "n1.nl-ams.example.com", &"a".repeat(63)] {
            assert!(good.parse::<NodeName>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", "a.", " a", &"a".repeat(64)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_dns_name_never_reads_like_an_address() {
        assert!("example.com".parse::<DnsName>().is_ok());
        assert!("1.2.3.4".parse::<DnsName>().is_err());
        assert!("300.2.3.4".parse::<DnsName>().is_err());
    }

    #[test]
    fn interface_names_are_the_kernels() {
        assert!("wl0".parse::<InterfaceName>().is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "a:b", "wg%d", "sixteen-bytes-xx"] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_error_names_value_and_rule() {
        let error = "A b".parse::<NodeName>().unwrap_err().to_string();
        assert!(
            error.contains("\"A b\"") && error.contains("node name") && error.contains("a-z"),
            "{error}"
        );
        assert!("".parse::<Location>().is_ok());
        assert!("a\nb".parse::<Location>().is_err());
    }
}
