//! Where this machine's devices heard peers. An agent that follows one that was killed calls them there: they send by dead
//! sessions for a quarter of a minute otherwise (WireGuard paper, section 6.2), and those behind NAT can't be called anywhere
//! else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use wireloom_model::PublicKey;

use crate::memory::Memory;

/// Of the memory's file.
pub(crate) const EXTENSION: &str = "heard";

/// Where each peer was heard last.
#[derive(Debug)]
pub(crate) struct Heard {
    memory: Memory,
    places: BTreeMap<PublicKey, SocketAddr>,
}

impl Heard {
    /// What earlier agents that listened at this path heard.
    pub(crate) fn recall(control: &Path) -> Self {
        let memory = Memory::of(control, EXTENSION);
        Self { places: memory.recall().unwrap_or_default(), memory }
    }

    pub(crate) const fn places(&self) -> &BTreeMap<PublicKey, SocketAddr> {
        &self.places
    }

    /// Keeps where peers are heard now. Others stay where they were heard last, for as long as they are peers.
    pub(crate) fn keep(
        &mut self,
        now: impl IntoIterator<Item = (PublicKey, SocketAddr)>,
        is_peer: impl Fn(&PublicKey) -> bool,
    ) {
        let mut places = self.places.clone();
        places.extend(now);
        places.retain(|key, _| is_peer(key));
        if places == self.places {
            return;
        }
        self.places = places;
        if let Err(error) = self.memory.keep(&self.places) {
            let path = self.memory.path().display();
            tracing::debug!(%path, %error, "an agent that follows this one if it is killed looks for peers anew");
        }
    }

    /// There is to be nothing for another agent.
    pub(crate) fn forget(&mut self) {
        self.places.clear();
        self.memory.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_heard_is_known_to_the_next_agent_where_it_was_heard_last() {
        let folder = tempfile::tempdir().unwrap();
        let control = folder.path().join("wl0.sock");
        let [a, b, c] = [1, 2, 3].map(|n| PublicKey::from_bytes([n; 32]));
        let place = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let mut first = Heard::recall(&control);
        assert!(first.places().is_empty());
        first.keep([(a, place(1)), (b, place(2)), (c, place(3))], |_| true);
        // One has moved, one is silent and one is no peer any more.
        first.keep([(a, place(4))], |key| *key != c);
        let mut next = Heard::recall(&control);
        assert_eq!(*next.places(), BTreeMap::from([(a, place(4)), (b, place(2))]));

        next.forget();
        assert!(Heard::recall(&control).places().is_empty());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::write(folder.path().join("wl0.heard"), "of another version").unwrap();
        assert!(Heard::recall(&control).places().is_empty());
    }
}
