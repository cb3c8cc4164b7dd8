//! A run kept for the record: its file, and what the page on benchmarks says of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::plot::{PLOTS, Plot};
use crate::report::{Report, Summary};
use crate::targets::check_list;

/// Between these lines of a page stands what a record says.
const MARKERS: [&str; 2] = ["<!-- figures -->\n", "<!-- /figures -->\n"];

/// A run, and what it was measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The machine in one line.
    pub machine: String,
    /// The day.
    pub date: String,
    /// The command that measures the same again.
    pub command: String,
    /// What each program says of its version.
    pub versions: BTreeMap<String, String>,
    /// The limit that the ciphers set, in Gbit/s of TCP payload.
    pub limit_gbit: f64,
    /// Every figure of every round.
    pub rounds: Report,
}

/// A record as it is saved: with what programs read of any run.
#[derive(Serialize)]
struct Saved<'a> {
    #[serde(flatten)]
    record: &'a Record,
    #[serde(flatten)]
    summary: Summary,
}

impl Record {
    /// Reads a record.
    ///
    /// # Errors
    ///
    /// If the file is missing or is none.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no record", path.display()))
    }

    /// Writes the record.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn save(&self, path: &Path) -> Result<()> {
        let saved = Saved { record: self, summary: self.rounds.summary() };
        write(path, &format!("{}\n", serde_json::to_string_pretty(&saved)?))
    }

    /// Draws all plots into a directory.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn plot(&self, directory: &Path) -> Result<()> {
        PLOTS.iter().try_for_each(|plot| {
            write(&directory.join(format!("{}.svg", plot.name)), &plot.svg(&self.rounds))
        })
    }

    /// Puts all of the run between the markers of a page; the plots lie in `plots` as seen from there.
    ///
    /// # Errors
    ///
    /// If the page cannot be read or written, or has no markers.
    pub fn put_into(&self, page: &Path, plots: &Path) -> Result<()> {
        fill(page, &self.section(plots))
    }

    /// Puts the run in short between the markers of a page.
    ///
    /// # Errors
    ///
    /// As of [`put_into`](Self::put_into).
    pub fn put_headline_into(&self, page: &Path, plots: &Path) -> Result<()> {
        fill(page, &self.headline(plots))
    }

    /// What stands first on every page.
    fn origin(&self) -> Vec<String> {
        let Self { machine, date, command, .. } = self;
        vec![format!("{date}, {machine}, by `{command}`:"), String::new()]
    }

    fn headline(&self, plots: &Path) -> String {
        let mut lines = self.origin();
        for plot in &PLOTS[..2] {
            lines.extend([image(plot, plots), String::new()]);
        }
        lines.join("\n")
    }

    fn section(&self, plots: &Path) -> String {
        let Self { versions, limit_gbit, rounds, .. } = self;
        let mut lines = self.origin();
        let versions = versions.iter().map(|(name, version)| format!("- {name}: {version}"));
        lines.extend(versions);
        lines.extend(["".into(), "Held against what was aimed at:".into(), "".into()]);
        lines.push("```text".into());
        lines.extend(check_list(&rounds.summary()));
        lines.extend(["```".into(), String::new()]);
        lines.push(format!("The ciphers' limit was {limit_gbit:.1} Gbit/s in this run."));
        for plot in &PLOTS {
            lines.extend([String::new(), image(plot, plots)]);
        }
        lines.extend(["".into(), rounds.medians(), "".into(), rounds.ratios()]);
        let missing = rounds.missing();
        if !missing.is_empty() {
            lines.extend(["".into(), "What failed:".into(), "".into()]);
            lines.extend(missing.into_iter().map(|line| format!("- {line}")));
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

fn image(plot: &Plot, plots: &Path) -> String {
    format!("![{}]({}/{}.svg)", plot.title, plots.display(), plot.name)
}

fn fill(page: &Path, section: &str) -> Result<()> {
    let text =
        fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let new = replace(&text, section).with_context(|| {
        let [begin, end] = MARKERS.map(str::trim);
        format!("{} has no lines {begin} and {end}", page.display())
    })?;
    write(page, &new)
}

fn write(path: &Path, text: &str) -> Result<()> {
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn replace(page: &str, section: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKERS[0])?;
    let (_, after) = rest.split_once(MARKERS[1])?;
    Some([before, MARKERS[0], section, MARKERS[1], after].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Round;
    use crate::subject::OURS;

    fn record() -> Record {
        let mut rounds = Report::default();
        let mut round = Round::default();
        round.figures.insert("tcp1.gbit".to_owned(), 5.0);
        round.missing.insert("TCP over VXLAN".to_owned(), "no packet passed".to_owned());
        rounds.add(OURS, round);
        Record {
            machine: "2 x Some Processor".to_owned(),
            date: "2026-01-02".to_owned(),
            command: "cargo xtask bench-tunnel --record".to_owned(),
            versions: [(OURS.to_owned(), "wireloom 0.1.0".to_owned())].into(),
            limit_gbit: 13.8,
            rounds,
        }
    }

    #[test]
    fn a_saved_record_is_read_again_and_has_what_programs_read() {
        let path = std::env::temp_dir().join(format!("record-{}.json", std::process::id()));
        record().save(&path).unwrap();
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let read = Record::load(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), record());
        assert_eq!(json["median"][OURS]["tcp1.gbit"], 5.0);
        assert_eq!(json["machine"], "2 x Some Processor");
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let page = "a\n<!-- figures -->\nold\n<!-- /figures -->\nb\n";
        let new = "a\n<!-- figures -->\nnew\n<!-- /figures -->\nb\n";
        assert_eq!(replace(page, "new\n").unwrap(), new);
        assert_eq!(replace(new, "new\n").unwrap(), new);
        assert_eq!(replace("a page without", "new"), None);
    }

    #[test]
    fn the_page_names_machine_command_plots_and_what_failed() {
        let section = record().section(Path::new("benchmarks"));
        for words in [
            "2 x Some Processor, by `cargo xtask bench-tunnel --record`",
            "![TCP between two hosts](benchmarks/tcp.svg)",
            "- wireloom: TCP over VXLAN failed in 1 of 1 rounds: no packet passed",
            "13.8 Gbit/s",
        ] {
            assert!(section.contains(words), "{words}\n{section}");
        }
        let headline = record().headline(Path::new("docs/benchmarks"));
        assert!(headline.contains("](docs/benchmarks/udp.svg)"), "{headline}");
    }
}
