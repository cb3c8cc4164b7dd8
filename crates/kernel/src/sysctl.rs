//! Kernel settings under `/proc/sys/net` (`Documentation/networking/ip-sysctl.rst` in Linux). They are those of the
//! calling thread's network namespace.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use wireloom_model::kernel::LinkSetting;
use wireloom_model::{Family, InterfaceName};

use crate::step;

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot read or write {}: {error}; it takes root and a writable /proc/sys", .path.display())]
pub struct SysctlError {
    /// The setting's file.
    pub path: PathBuf,
    /// What the file system said.
    pub error: io::Error,
}

impl SysctlError {
    /// Whether there is no such setting: its link or its family is not there.
    fn is_of_nothing(&self) -> bool {
        self.error.kind() == io::ErrorKind::NotFound
    }
}

/// Forwarding as it was before a gateway switched it on.
///
/// The memory lies in this value alone: whoever may be killed keeps it elsewhere too, or leaves forwarding on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "dropping it leaves forwarding on for good"]
pub struct Forwarding {
    /// Every setting that the kernel changes along, with its earlier value; the one written to comes first.
    before: Vec<(PathBuf, String)>,
}

/// Whether the calling thread's network namespace forwards packets of this family between all links.
pub fn is_forwarding(family: Family) -> Result<bool, SysctlError> {
    is_on(&all_forwarding(root(), family))
}

impl Forwarding {
    /// Switches forwarding on where it is off, in the calling thread's network namespace. A kernel without IPv6 has nothing
    /// to be switched on for that.
    ///
    /// For IPv6 this makes every link a router's, which ignores router advertisements unless its `accept_ra` is 2: a
    /// host that has its default route from them loses it when it expires.
    pub fn enable(families: &[Family]) -> Result<Self, SysctlError> {
        Self::enable_under(root(), families)
    }

    fn enable_under(root: &Path, families: &[Family]) -> Result<Self, SysctlError> {
        let mut forwarding = Self::default();
        for family in families {
            if let Err(error) = forwarding.switch_on(root, *family) {
                // What was switched on is worth nothing without the rest.
                let _ = forwarding.restore();
                return Err(error);
            }
        }
        Ok(forwarding)
    }

    /// The same with what it was before that: of a setting that both know, the earlier value counts.
    pub fn since(self, mut earlier: Self) -> Self {
        let unknown =
            |(path, _): &(PathBuf, String)| earlier.before.iter().all(|(known, _)| known != path);
        let later: Vec<_> = self.before.into_iter().filter(unknown).collect();
        earlier.before.extend(later);
        earlier
    }

    /// Whether anything had to be switched on.
    pub fn changed(&self) -> bool {
        !self.before.is_empty()
    }

    /// Puts back what was there before, link by link. Links that are gone are left out. Returns the first error and
    /// goes on after it.
    pub fn restore(self) -> Result<(), SysctlError> {
        let mut first_error = Ok(());
        for (path, value) in self.before {
            let restored = match read(&path) {
                Ok(now) if now == value => Ok(()),
                Ok(_) => write(&path, &value).map(|()| step::made()),
                Err(error) if error.is_of_nothing() => Ok(()),
                Err(error) => Err(error),
            };
            first_error = first_error.and(restored);
        }
        first_error
    }

    fn switch_on(&mut self, root: &Path, family: Family) -> Result<(), SysctlError> {
        let all = all_forwarding(root, family);
        match is_on(&all) {
            Ok(false) => {}
            Ok(true) => return Ok(()),
            // Every kernel has IPv4: there it says that the settings can't be seen.
            Err(error) if family == Family::V6 && error.is_of_nothing() => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut paths = vec![all.clone()];
        let directory = conf(root, family);
        let links = fs::read_dir(&directory)
            .map_err(|error| SysctlError { path: directory.clone(), error })?;
        paths.extend(links.flatten().map(|link| link.path().join("forwarding")));
        if family == Family::V4 {
            // A router takes no redirects: the kernel switches these with it (`inet_forward_change`, net/ipv4/devinet.c).
            paths.push(directory.join("all/accept_redirects"));
        }
        let before: Vec<(PathBuf, String)> =
            paths.into_iter().filter_map(|path| Some((path.clone(), read(&path).ok()?))).collect();
        write(&all, "1")?;
        step::made();
        self.before.extend(before);
        Ok(())
    }
}

/// Has the kernel keep the other addresses of a network when the first of it is taken off a link. Without that it
/// takes them all, with the routes that use them as source.
pub(crate) fn keep_secondary_addresses(link: &InterfaceName) {
    let path = conf(root(), Family::V4).join(link.as_str()).join("promote_secondaries");
    if let Err(error) = write(&path, "1") {
        tracing::debug!(%error, "secondary addresses may go with the first one");
    }
}

/// A link's setting in the calling thread's network namespace. `None` if the link or the family is not there, or if the
/// families differ, or the value is none that we would give.
pub(crate) fn link_setting(link: &InterfaceName, setting: LinkSetting) -> Option<u8> {
    let mut values = files(link, setting).filter_map(|path| read(&path).ok());
    let value = values.next()?;
    if values.all(|other| other == value) { value.parse().ok() } else { None }
}

/// Gives a link a setting in the calling thread's network namespace. Returns whether there was a link and a family to
/// give it to.
pub(crate) fn set_link_setting(
    link: &InterfaceName,
    setting: LinkSetting,
    value: u8,
) -> Result<bool, SysctlError> {
    let mut any = false;
    for path in files(link, setting).filter(|path| path.exists()) {
        write(&path, &value.to_string())?;
        any = true;
    }
    Ok(any)
}

/// Not every family has every setting.
fn files(link: &InterfaceName, setting: LinkSetting) -> impl Iterator<Item = PathBuf> {
    let families: &[Family] = match setting {
        LinkSetting::AcceptRa => &[Family::V6],
        LinkSetting::DisablePolicy => &Family::BOTH,
        _ => &[Family::V4],
    };
    let root = root();
    families
        .iter()
        .map(move |family| conf(root, *family).join(link.as_str()).join(setting.as_str()))
}

fn all_forwarding(root: &Path, family: Family) -> PathBuf {
    conf(root, family).join("all/forwarding")
}

fn conf(root: &Path, family: Family) -> PathBuf {
    root.join(match family {
        Family::V4 => "ipv4/conf",
        Family::V6 => "ipv6/conf",
    })
}

/// Where the settings are.
fn root() -> &'static Path {
    let root = Path::new(OF_A_POD);
    if root.is_dir() { root } else { Path::new("/proc/sys/net") }
}

/// Where a pod has the settings mounted once more: its own `/proc/sys` can't be written without privileges.
const OF_A_POD: &str = "/host/proc/sys/net";

fn is_on(path: &Path) -> Result<bool, SysctlError> {
    read(path).map(|value| value != "0")
}

fn read(path: &Path) -> Result<String, SysctlError> {
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|error| SysctlError { path: path.to_owned(), error })
}

fn write(path: &Path, value: &str) -> Result<(), SysctlError> {
    fs::write(path, value).map_err(|error| SysctlError { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_ipv6_forwards_ipv4_all_the_same() {
        let root = std::env::temp_dir().join(format!("wireloom-sysctl-{}", std::process::id()));
        let all = root.join("ipv4/conf/all");
        fs::create_dir_all(&all).unwrap();
        fs::write(all.join("forwarding"), "0\n").unwrap();
        let enabled = Forwarding::enable_under(&root, &Family::BOTH);
        let on = read(&all.join("forwarding"));
        let again = Forwarding::enable_under(&root, &Family::BOTH);
        let restored = enabled.map(|before| (before.changed(), before.restore().is_ok()));
        let off = read(&all.join("forwarding"));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(restored.unwrap(), (true, true));
        assert!(!again.unwrap().changed());
        assert_eq!((on.unwrap().as_str(), off.unwrap().as_str()), ("1", "0"));
        // Without anything, nothing is switched on.
        assert!(Forwarding::enable_under(&root, &Family::BOTH).is_err());
    }
}
