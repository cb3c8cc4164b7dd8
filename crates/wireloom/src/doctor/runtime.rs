//! Where the container runtime looks for pods' network, by containerd's own settings.

use std::fs;
use std::path::{Path, PathBuf};

/// Where distributions put containerd's settings. Those of k3s and RKE2 are of their own containerd, which is the one that
/// runs pods where both are there.
const SETTINGS: [&str; 3] = [
    "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
    "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
    "/etc/containerd/config.toml",
];

/// The part of containerd that speaks with kubelets, by its names in versions 3, 2 and 1 of the settings.
const PARTS: [&str; 3] = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];

/// The file with containerd's settings, and the directory that it reads lists of plugins from. `None` where there is no
/// such file, or none that may be read, or where it leaves that directory to containerd.
pub(super) fn told() -> Option<(PathBuf, PathBuf)> {
    let found = SETTINGS.iter().map(Path::new).find(|path| path.exists())?;
    let text = fs::read_to_string(found).ok()?;
    Some((found.to_owned(), conf_dir(&text)?))
}

fn conf_dir(settings: &str) -> Option<PathBuf> {
    let settings: toml::Table = settings.parse().ok()?;
    let plugins = settings.get("plugins")?;
    let of = |part: &&str| plugins.get(*part)?.get("cni")?.get("conf_dir")?.as_str();
    PARTS.iter().find_map(of).filter(|text| !text.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_found_in_each_version_of_the_settings() {
        for part in ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"] {
            let text = format!(
                "version = 2\n[plugins]\n[plugins.\"{part}\".cni]\nbin_dir = \"/b\"\nconf_dir = \"/c/net.d\"\n"
            );
            assert_eq!(conf_dir(&text), Some(PathBuf::from("/c/net.d")), "{part}");
        }
        for nothing in [
            "",
            "version = 3",
            "[plugins.cri.cni]\nbin_dir = \"/b\"",
            "[",
            "plugins = 1",
            "[plugins.cri.cni]\nconf_dir = \"\"",
        ] {
            assert_eq!(conf_dir(nothing), None, "{nothing}");
        }
    }
}
