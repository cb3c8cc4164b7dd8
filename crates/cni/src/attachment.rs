//! The pods of a node, as the plugin saw them come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use wireloom_model::Cidr;

use crate::netlink::Netlink;
use crate::whole;

/// Their directory in the agent's run directory. It goes when the machine starts anew, as its pods do.
const DIRECTORY: &str = "pods";

/// The directory beside it where each address leads to who has it, so that a new pod need not read of all others.
const BY_ADDRESS: &str = "pod-addresses";

/// The owner alone needs to look.
const MODE: u32 = 0o600;

/// A pod's place on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container's identifier.
    pub container: String,
    /// The pod's link, by its name in the pod.
    pub interface: String,
    /// The number of that link's other end, if this host has it. It goes with the pod, and no other link gets its number.
    #[serde(default)]
    pub host_end: Option<u32>,
    /// The pod's addresses on it.
    pub addresses: BTreeSet<IpAddr>,
    /// The largest packet in bytes that its routes to these prefixes take, where its link takes more.
    pub limited: BTreeMap<Cidr, u32>,
    /// Whether it stays off the mesh.
    pub off_mesh: bool,
}

/// All attachments of a node, a file each: written by the plugin, read by the agent whenever that runs.
#[derive(Debug, Clone)]
pub struct Attachments {
    directory: PathBuf,
    by_address: PathBuf,
}

/// What is written down of pods.
#[derive(Debug, Default)]
pub struct Records {
    /// The attachments, in the order of their files.
    pub pods: Vec<Attachment>,
    /// The files that can't be read, or say something else.
    pub unreadable: Vec<Unreadable>,
}

/// A file that should be an attachment's.
#[derive(Debug, thiserror::Error)]
#[error("what was kept of a pod can't be read: {}: {error}; remove that file and restart the pod", path.display())]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub error: io::Error,
}

impl Attachments {
    /// Those in the agent's run directory.
    pub fn of(run: &Path) -> Self {
        Self { directory: run.join(DIRECTORY), by_address: run.join(BY_ADDRESS) }
    }

    /// Adds one, in the place of another of the same container and link, and of those that had one of its addresses: an
    /// address is given out again when its pod is gone, whether that was told here or not.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn put(&self, attachment: &Attachment) -> io::Result<()> {
        for address in &attachment.addresses {
            if let Some(other) = self.at(*address)?
                && !other.is_of(&attachment.container, &attachment.interface)
            {
                self.remove(&other.container, &other.interface)?;
            }
        }
        let name = name(&attachment.container, &attachment.interface);
        let bytes = serde_json::to_vec_pretty(attachment)?;
        whole::write(&self.directory.join(&name), &bytes, MODE)?;
        let target = Path::new("..").join(DIRECTORY).join(name);
        attachment
            .addresses
            .iter()
            .try_for_each(|address| whole::link(&self.link(*address), &target))
    }

    /// Returns the one of a container and link. One that can't be read is none.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn find(&self, container: &str, interface: &str) -> io::Result<Option<Attachment>> {
        find(&self.directory.join(name(container, interface)))
    }

    /// Takes one away. What is gone already is no failure.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn remove(&self, container: &str, interface: &str) -> io::Result<()> {
        let known = self.find(container, interface).unwrap_or_default();
        let mut addresses = known.map(|attachment| attachment.addresses).unwrap_or_default();
        addresses.retain(|address| {
            let holder = self.at(*address).unwrap_or_default();
            holder.is_some_and(|holder| holder.is_of(container, interface))
        });
        whole::remove(&self.directory.join(name(container, interface)))?;
        addresses.into_iter().try_for_each(|address| whole::remove(&self.link(address)))
    }

    /// All of them.
    ///
    /// # Errors
    ///
    /// What the system says of the directory.
    pub fn all(&self) -> io::Result<Records> {
        let names = whole::names(&self.directory)?;
        let paths = names.into_iter().map(|name| self.directory.join(name));
        let mut records = Records::default();
        for path in paths.filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
            let read = whole::read(&path).and_then(|bytes| {
                bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(Into::into)
            });
            match read {
                Ok(Some(attachment)) => records.pods.push(attachment),
                // Between the list and here, its pod has gone.
                Ok(None) => {}
                Err(error) => records.unreadable.push(Unreadable { path, error }),
            }
        }
        Ok(records)
    }

    /// All of them but for pods whose links are gone from the calling thread's network: a runtime may end pods without
    /// calling our plugin, if it is not told to any longer.
    ///
    /// # Errors
    ///
    /// What the system says of the directory and of links.
    pub fn living(&self) -> io::Result<Records> {
        let mut records = self.all()?;
        if records.pods.iter().any(|pod| pod.host_end.is_some()) {
            let links = Netlink::open()?.links()?;
            let links: BTreeSet<u32> = links.into_iter().map(|link| link.index).collect();
            records.pods.retain(|pod| pod.host_end.is_none_or(|link| links.contains(&link)));
        }
        Ok(records)
    }

    /// Returns the one that has an address.
    fn at(&self, address: IpAddr) -> io::Result<Option<Attachment>> {
        // What an address leads to may have come again with other addresses.
        Ok(find(&self.link(address))?.filter(|holder| holder.addresses.contains(&address)))
    }

    fn link(&self, address: IpAddr) -> PathBuf {
        self.by_address.join(address.to_string())
    }
}

impl Attachment {
    fn is_of(&self, container: &str, interface: &str) -> bool {
        (self.container.as_str(), self.interface.as_str()) == (container, interface)
    }
}

fn name(container: &str, interface: &str) -> String {
    format!("{container}.{interface}.json")
}

fn find(path: &Path) -> io::Result<Option<Attachment>> {
    let bytes = whole::read(path)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use wireloom_testkit::{in_new_network, ip, need};

    use super::*;

    fn attachment(container: &str, address: &str, host_end: Option<u32>) -> Attachment {
        Attachment {
            network: "net".to_owned(),
            container: container.to_owned(),
            interface: "eth0".to_owned(),
            host_end,
            addresses: BTreeSet::from([address.parse().unwrap()]),
            limited: BTreeMap::new(),
            off_mesh: true,
        }
    }

    fn names(records: Records) -> Vec<String> {
        records.pods.into_iter().map(|pod| pod.container).collect()
    }

    #[test]
    fn an_address_that_is_given_out_again_is_no_longer_that_of_who_had_it() {
        let folder = tempfile::tempdir().unwrap();
        let attachments = Attachments::of(folder.path());
        for (container, address) in [("a", "10.42.1.5"), ("b", "10.42.1.6"), ("c", "10.42.1.5")] {
            attachments.put(&attachment(container, address, None)).unwrap();
        }
        assert_eq!(names(attachments.all().unwrap()), ["b", "c"]);
        attachments.put(&attachment("c", "10.42.1.5", None)).unwrap();
        assert_eq!(names(attachments.all().unwrap()), ["b", "c"]);
    }

    #[test]
    fn an_address_leads_to_who_has_it_and_to_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let attachments = Attachments::of(folder.path());
        let links = || whole::names(&folder.path().join(BY_ADDRESS)).unwrap();
        let mut both = attachment("a", "10.42.1.5", None);
        both.addresses.insert("fd42:1::5".parse().unwrap());
        attachments.put(&both).unwrap();
        assert_eq!(links(), ["10.42.1.5", "fd42:1::5"]);
        // One is enough to tell that the other is gone.
        attachments.put(&attachment("b", "fd42:1::5", None)).unwrap();
        assert_eq!(
            (names(attachments.all().unwrap()), links()),
            (vec!["b".into()], vec!["fd42:1::5".into()])
        );
        // Who came again with another address no longer has the one before, and goes for nobody who gets that.
        attachments.put(&attachment("b", "10.42.1.6", None)).unwrap();
        attachments.put(&attachment("c", "fd42:1::5", None)).unwrap();
        assert_eq!(names(attachments.all().unwrap()), ["b", "c"]);
        // Said late, that one is gone takes nothing of another's.
        fs::write(folder.path().join("pods/a.eth0.json"), serde_json::to_vec(&both).unwrap())
            .unwrap();
        attachments.remove("a", "eth0").unwrap();
        assert_eq!(links(), ["10.42.1.6", "fd42:1::5"]);
        for container in ["b", "c"] {
            attachments.remove(container, "eth0").unwrap();
        }
        assert_eq!((names(attachments.all().unwrap()), links()), (vec![], vec![]));
    }

    #[test]
    fn one_that_cannot_be_read_is_told_and_leaves_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let attachments = Attachments::of(folder.path());
        attachments.put(&attachment("a", "10.42.1.5", None)).unwrap();
        let bad = folder.path().join("pods/b.eth0.json");
        fs::write(&bad, "{").unwrap();
        let records = attachments.all().unwrap();
        assert_eq!(records.unreadable.len(), 1);
        assert!(records.unreadable[0].to_string().contains(&bad.display().to_string()));
        assert_eq!(names(records), ["a"]);
    }

    #[test]
    fn a_pod_whose_link_is_gone_is_gone() {
        need!(root);
        need!(program "ip");
        in_new_network(|| {
            let folder = tempfile::tempdir().unwrap();
            let attachments = Attachments::of(folder.path());
            ip("link add here index 77 type veth peer name eth0 index 79");
            for (container, address, end) in [
                ("here", "10.42.1.5", Some(77)),
                ("gone", "10.42.1.6", Some(78)),
                ("unknown", "10.42.1.7", None),
            ] {
                attachments.put(&attachment(container, address, end)).unwrap();
            }
            assert_eq!(names(attachments.living().unwrap()), ["here", "unknown"]);
        });
    }
}
