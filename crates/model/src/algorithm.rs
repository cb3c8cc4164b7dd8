//! The ways to plan a mesh.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// A way to plan a mesh. All nodes of a mesh plan in one way, or both ends of a tunnel would not agree.
///
/// Ordered: whoever knows one knows those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// As Kilo's agents do, so that they and ours can be in one mesh.
    Kilo,
    /// Our own.
    #[default]
    Wireloom,
}

/// A text that names no [`Algorithm`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no way to plan a mesh: write kilo or wireloom")]
pub struct AlgorithmError {
    /// The text that was given.
    pub value: String,
}

impl Algorithm {
    /// All of them, in order.
    pub const ALL: [Self; 2] = [Self::Kilo, Self::Wireloom];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kilo => "kilo",
            Self::Wireloom => "wireloom",
        }
    }
}

impl FromStr for Algorithm {
    type Err = AlgorithmError;

    fn from_str(text: &str) -> Result<Self, AlgorithmError> {
        let named = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        named.ok_or_else(|| AlgorithmError { value: text.to_owned() })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

serde_as_text!(Algorithm);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back_in_order() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        assert!(Algorithm::ALL.is_sorted());
        assert!("Kilo".parse::<Algorithm>().is_err());
    }
}
