//! Many rounds of figures, and what they say together.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::subject::OURS;

/// The figures of one subject by name; the name's end is the unit.
pub type Figures = BTreeMap<String, f64>;

/// What one subject showed in one round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// What was measured.
    pub figures: Figures,
    /// The loads that failed, each with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, String>,
}

/// All rounds of a run, by subject.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Report {
    rounds: BTreeMap<String, Vec<Round>>,
}

/// What a run says: the median of every figure, and ours divided by each other subject's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Medians, by subject and figure.
    pub median: BTreeMap<String, Figures>,
    /// Our median divided by the subject's, by subject and figure.
    pub ratio: BTreeMap<String, Figures>,
}

impl Report {
    /// Adds what one subject showed in one round.
    pub fn add(&mut self, subject: &str, round: Round) {
        self.rounds.entry(subject.to_owned()).or_default().push(round);
    }

    /// Medians and ratios. A figure that a subject never showed is left out, and so is a ratio to zero.
    pub fn summary(&self) -> Summary {
        let of = |rounds: &Vec<Round>| -> Figures {
            let median_of = |name| Some((name, median(&values(rounds, name))?));
            let medians = names(rounds.iter().map(|round| &round.figures)).filter_map(median_of);
            medians.map(|(name, value)| (name.to_owned(), value)).collect()
        };
        let median: BTreeMap<String, Figures> =
            self.rounds.iter().map(|(subject, rounds)| (subject.clone(), of(rounds))).collect();
        let ours = median.get(OURS).cloned().unwrap_or_default();
        let to = |theirs: &Figures| -> Figures {
            let theirs = theirs.iter().filter(|(_, value)| **value != 0.0);
            theirs
                .filter_map(|(name, value)| Some((name.clone(), rounded(ours.get(name)? / value))))
                .collect()
        };
        let others = median.iter().filter(|(subject, _)| *subject != OURS);
        let ratio = others.map(|(subject, theirs)| (subject.clone(), to(theirs))).collect();
        Summary { median, ratio }
    }

    /// The table of medians: a row a figure, a column a subject, each cell with the lowest and the highest round.
    pub fn medians(&self) -> String {
        let mut table = table("median (lowest to highest)", self.rounds.keys().cloned());
        for name in names(self.rounds.values().flatten().map(|round| &round.figures)) {
            let cells = self.rounds.keys().map(|subject| self.range(subject, name).map(cell));
            table.add_row(row(name, cells.map(Option::unwrap_or_default)));
        }
        print(table)
    }

    /// The table of ratios: a row a figure, a column a subject that we are compared with.
    pub fn ratios(&self) -> String {
        let Summary { ratio, .. } = self.summary();
        let columns = ratio.keys().map(|subject| format!("{OURS} / {subject}"));
        let mut table = table("ratio of medians", columns);
        for name in names(ratio.values()) {
            let cells = ratio.values().map(|ratios| ratios.get(name));
            let shown = cells.map(|ratio| ratio.map(|ratio| format!("{ratio:.2}")));
            table.add_row(row(name, shown.map(Option::unwrap_or_default)));
        }
        print(table)
    }

    /// Every subject.
    pub fn subjects(&self) -> impl Iterator<Item = &str> {
        self.rounds.keys().map(String::as_str)
    }

    /// The lowest, the median and the highest of a subject's figure.
    pub fn range(&self, subject: &str, figure: &str) -> Option<[f64; 3]> {
        let values = values(self.rounds.get(subject)?, figure);
        Some([*values.first()?, median(&values)?, *values.last()?])
    }

    /// A line for each load that failed: the subject, the load, in how many rounds, and one of the reasons.
    pub fn missing(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (subject, rounds) in &self.rounds {
            let loads: BTreeSet<&String> = rounds.iter().flat_map(|r| r.missing.keys()).collect();
            for load in loads {
                let reasons: Vec<&String> =
                    rounds.iter().filter_map(|round| round.missing.get(load)).collect();
                let (count, all) = (reasons.len(), rounds.len());
                lines.push(format!(
                    "{subject}: {load} failed in {count} of {all} rounds: {}",
                    reasons[0]
                ));
            }
        }
        lines
    }
}

fn table(corner: &str, columns: impl Iterator<Item = String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(row(corner, columns));
    table
}

fn row(first: &str, rest: impl Iterator<Item = String>) -> Vec<String> {
    [first.to_owned()].into_iter().chain(rest).collect()
}

fn print(mut table: Table) -> String {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// The names of all figures, each once.
fn names<'a>(figures: impl Iterator<Item = &'a Figures>) -> impl Iterator<Item = &'a str> {
    let names: BTreeSet<&str> = figures.flat_map(Figures::keys).map(String::as_str).collect();
    names.into_iter()
}

/// One figure over all rounds, ascending.
fn values(rounds: &[Round], name: &str) -> Vec<f64> {
    let mut values: Vec<f64> =
        rounds.iter().filter_map(|round| round.figures.get(name)).copied().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The middle of ascending values; of two middles, their mean.
fn median(ascending: &[f64]) -> Option<f64> {
    let upper = ascending.get(ascending.len() / 2)?;
    let lower = ascending.get((ascending.len() - 1) / 2)?;
    Some(rounded(f64::midpoint(*lower, *upper)))
}

/// To thousandths: no figure here is good to more.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn cell([lowest, middle, highest]: [f64; 3]) -> String {
    let decimals = if highest < 100.0 { 2 } else { 0 };
    format!("{middle:.decimals$} ({lowest:.decimals$} to {highest:.decimals$})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<const N: usize>(figures: [(&str, f64); N]) -> Round {
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Round { figures, missing: BTreeMap::new() }
    }

    fn report() -> Report {
        let mut report = Report::default();
        for (ours, theirs) in [(4.0, 2.0), (9.0, 1.0), (5.0, 3.0)] {
            report.add(OURS, round([("tcp1.gbit", ours), ("peak_rss_mb", 3.0)]));
            report.add("wireguard-go", round([("tcp1.gbit", theirs)]));
        }
        report
    }

    #[test]
    fn medians_and_ratios_are_by_subject_and_figure() {
        let Summary { median, ratio } = report().summary();
        assert_eq!(median[OURS]["tcp1.gbit"], 5.0);
        assert_eq!(median["wireguard-go"]["tcp1.gbit"], 2.0);
        assert_eq!(ratio["wireguard-go"], round([("tcp1.gbit", 2.5)]).figures);
        assert!(!ratio.contains_key(OURS));
    }

    #[test]
    fn json_has_the_two_keys_that_programs_read_and_no_other() {
        let json = serde_json::to_value(report().summary()).unwrap();
        assert_eq!(json["median"]["wireloom"]["peak_rss_mb"], 3.0);
        assert_eq!(json["ratio"]["wireguard-go"]["tcp1.gbit"], 2.5);
        assert_eq!(json.as_object().unwrap().len(), 2);
    }

    #[test]
    fn the_tables_show_the_spread_and_the_ratio() {
        let (medians, ratios) = (report().medians(), report().ratios());
        assert!(medians.contains("5.00 (4.00 to 9.00)"), "{medians}");
        assert!(ratios.contains("wireloom / wireguard-go"), "{ratios}");
        assert!(ratios.contains("2.50"), "{ratios}");
    }

    #[test]
    fn a_load_that_failed_leaves_its_reason() {
        let mut report = report();
        let mut failed = Round::default();
        failed.missing.insert("TCP, 8 streams".to_owned(), "it has ended".to_owned());
        report.add("wireguard-go", failed);
        let expected = "wireguard-go: TCP, 8 streams failed in 1 of 4 rounds: it has ended";
        assert_eq!(report.missing(), [expected]);
        assert_eq!(report.summary().median["wireguard-go"]["tcp1.gbit"], 2.0);
    }

    #[test]
    fn a_median_of_two_is_their_mean_and_of_none_nothing() {
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let mut report = Report::default();
        report.add(OURS, round([("tcp1.retransmits_per_gb", 3.0)]));
        report.add("none", round([("tcp1.retransmits_per_gb", 0.0)]));
        assert_eq!(report.summary().ratio["none"], Figures::new());
    }
}
