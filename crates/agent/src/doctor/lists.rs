//! What the files say by which a container runtime is told of networks, whoever put them there.

use std::path::{Path, PathBuf};

use wireloom_cni::{Listed, PLUGIN, Programs, survey};

use super::facts::Facts;
use super::{Check, Finding, Severity, finding};
use crate::pods::NETWORK;

/// The files, and what they name that is not there.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// In the order in which runtimes read them.
    listed: Vec<Listed>,
    /// The programs that the first that says something names and that are missing.
    missing: Vec<String>,
    /// Where programs are looked for.
    programs: PathBuf,
}

impl Lists {
    /// Those in a directory, and the programs in another. Where they can't be read there are none: the finding on
    /// privileges says so.
    pub(crate) fn look(lists: &Path, programs: &Path) -> Self {
        Self::of(survey(lists).unwrap_or_default(), programs)
    }

    fn of(listed: Vec<Listed>, directory: &Path) -> Self {
        let programs = Programs::new(directory.to_owned());
        let first = listed.iter().find(|list| list.broken.is_none());
        let named = first.into_iter().flat_map(|list| &list.programs);
        let missing = named.filter(|program| !programs.has(program)).cloned().collect();
        Self { listed, missing, programs: programs.directory().to_owned() }
    }

    fn findings(&self) -> Vec<Finding> {
        // What other networks say to each other is no matter of the mesh.
        let concerns_us = self.listed.iter().any(|list| is_own(list) || list.has_ours());
        let grave = |severity| if concerns_us { severity } else { Severity::Note };
        let valid = self.listed.iter().position(|list| list.broken.is_none());
        let mut found = Vec::new();
        for list in &self.listed[..valid.unwrap_or(self.listed.len())] {
            let what = format!(
                "{} tells the container runtime nothing: {}",
                list.path.display(),
                list.broken.as_deref().unwrap_or_default()
            );
            let why = "some runtimes give up at such a file, and no pod starts";
            let remedy = format!("remove or mend it: rm {}", list.path.display());
            found.push(finding(grave(Severity::Warning), Check::PodNetwork, what, why, remedy));
        }
        let Some(first) = valid.map(|at| &self.listed[at]) else { return found };
        let path = first.path.display();
        if !self.missing.is_empty() {
            let programs = self.programs.display();
            let what =
                format!("{path} names {}, which {programs} does not have", self.missing.join(", "));
            let why = "a runtime that goes by it starts no pod";
            let remedy = match self.missing.iter().any(|program| program == PLUGIN) {
                true => {
                    "start the agent, which brings its plugin, or say `wireloom cleanup`".into()
                }
                false => format!("install them, or if their network is gone: rm {path}"),
            };
            found.push(finding(grave(Severity::Error), Check::PodNetwork, what, why, remedy));
        }
        if let Some(own) = self.listed.iter().find(|list| is_own(list))
            && !is_own(first)
        {
            let what = format!("{path} comes before {}", own.path.display());
            let why = "pods get their network from the first, and so none from the mesh";
            let remedy = format!(
                "if its network is gone: rm {path}; else have the agent chained to it by --cni-chain"
            );
            found.push(finding(Severity::Warning, Check::PodNetwork, what, why, remedy));
        }
        found
    }
}

fn is_own(list: &Listed) -> bool {
    list.network.as_deref() == Some(NETWORK)
}

pub(super) fn pod_network(facts: &Facts) -> Vec<Finding> {
    facts.lists.findings()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// What is found where these files are, and `bridge` and `host-local` among the programs.
    fn found(files: &[(&str, &str)]) -> Vec<(Severity, String)> {
        let folder = tempfile::tempdir().unwrap();
        for program in ["bridge", "host-local"] {
            fs::write(folder.path().join(program), "").unwrap();
        }
        let lists = folder.path().join("net.d");
        fs::create_dir(&lists).unwrap();
        for (name, text) in files {
            fs::write(lists.join(name), text).unwrap();
        }
        let lists = Lists::look(&lists, folder.path());
        let findings = lists.findings().into_iter();
        findings.map(|finding| (finding.severity, finding.what)).collect()
    }

    const OURS: (&str, &str) = (
        "10-wireloom.conflist",
        r#"{"name": "wireloom", "plugins": [{"type": "bridge", "ipam": {"type": "host-local"}}]}"#,
    );
    const STALE: &str =
        r#"{"name": "gone", "plugins": [{"type": "weave-net"}, {"type": "bridge"}]}"#;

    #[test]
    fn what_a_removed_network_left_before_ours_is_found() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[OURS, ("20-gone.conflist", STALE)]), []);
        let stale = found(&[OURS, ("05-gone.conflist", STALE)]);
        assert_eq!(stale.len(), 2, "{stale:?}");
        assert!(stale[0].0 == Severity::Error && stale[0].1.contains("names weave-net, which"));
        assert!(
            stale[1].0 == Severity::Warning && stale[1].1.contains("05-gone.conflist comes before")
        );
    }

    #[test]
    fn half_a_file_before_ours_is_found_and_one_behind_it_is_no_matter() {
        assert_eq!(found(&[OURS, ("20-half.conflist", "{")]), []);
        let half = found(&[("05-half.conflist", "{"), OURS]);
        assert_eq!(half.len(), 1, "{half:?}");
        assert!(half[0].0 == Severity::Warning && half[0].1.contains("05-half.conflist tells"));
    }

    #[test]
    fn a_list_that_names_our_plugin_where_it_is_not_keeps_every_pod_from_starting() {
        let chained = r#"{"name": "cbr0", "plugins": [{"type": "bridge"}, {"type": "wireloom"}]}"#;
        let missing = found(&[("10-flannel.conflist", chained)]);
        assert_eq!(missing.len(), 1, "{missing:?}");
        assert!(missing[0].0 == Severity::Error && missing[0].1.contains("names wireloom, which"));
    }

    #[test]
    fn what_is_wrong_with_networks_that_are_not_ours_is_good_to_know_and_no_more() {
        let others = found(&[("05-half.conflist", "{"), ("10-gone.conflist", STALE)]);
        assert_eq!(others.len(), 2, "{others:?}");
        assert!(others.iter().all(|(severity, _)| *severity == Severity::Note));
    }
}
