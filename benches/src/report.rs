//! Many rounds of figures, and what they say together.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::subject::OURS;

/// The figures of one subject in one round, by name; the name's end is the unit.
pub type Figures = BTreeMap<&'static str, f64>;

/// All figures of a run, round after round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    rounds: BTreeMap<&'static str, Vec<Figures>>,
}

/// What a run says: the median of every figure, and ours divided by each other subject's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Medians, by subject and figure.
    pub median: BTreeMap<&'static str, Figures>,
    /// Our median divided by the subject's, by subject and figure.
    pub ratio: BTreeMap<&'static str, Figures>,
}

impl Report {
    /// Adds what one subject showed in one round.
    pub fn add(&mut self, subject: &'static str, figures: Figures) {
        self.rounds.entry(subject).or_default().push(figures);
    }

    /// Medians and ratios. A figure that a subject never showed is left out, and so is a ratio to zero.
    pub fn summary(&self) -> Summary {
        let over_rounds = |rounds: &Vec<Figures>| {
            names(rounds).filter_map(|name| Some((name, median(&values(rounds, name))?))).collect()
        };
        let median: BTreeMap<&str, Figures> =
            self.rounds.iter().map(|(subject, rounds)| (*subject, over_rounds(rounds))).collect();
        let ours = median.get(OURS).cloned().unwrap_or_default();
        let ratio = median
            .iter()
            .filter(|(subject, _)| **subject != OURS)
            .map(|(subject, theirs)| {
                let ratios = theirs
                    .iter()
                    .filter(|(_, value)| **value != 0.0)
                    .filter_map(|(name, value)| Some((*name, rounded(ours.get(name)? / value))));
                (*subject, ratios.collect())
            })
            .collect();
        Summary { median, ratio }
    }

    /// The table that people read: a row a figure, a column a subject, each cell a median, the lowest and the highest
    /// round; then our ratio to each subject.
    pub fn table(&self) -> String {
        let Summary { median, ratio } = self.summary();
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        let subjects: Vec<&str> = median.keys().copied().collect();
        let mut header = vec!["median (lowest to highest)".to_owned()];
        header.extend(subjects.iter().map(|subject| (*subject).to_owned()));
        header.extend(ratio.keys().map(|subject| format!("{OURS} / {subject}")));
        table.set_header(header);
        let figures: Vec<&str> = names(median.values()).collect();
        for name in figures {
            let mut row = vec![name.to_owned()];
            row.extend(subjects.iter().map(|subject| {
                let values = self.rounds.get(subject).map(|rounds| values(rounds, name));
                values.and_then(|values| cell(&values)).unwrap_or_default()
            }));
            row.extend(ratio.values().map(|ratios| {
                ratios.get(name).map(|ratio| format!("{ratio:.2}")).unwrap_or_default()
            }));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// The names of all figures, each once.
fn names<'a>(figures: impl IntoIterator<Item = &'a Figures>) -> impl Iterator<Item = &'static str> {
    let names: BTreeMap<&'static str, ()> =
        figures.into_iter().flat_map(BTreeMap::keys).map(|name| (*name, ())).collect();
    names.into_keys()
}

/// One figure over all rounds, ascending.
fn values(rounds: &[Figures], name: &str) -> Vec<f64> {
    let mut values: Vec<f64> = rounds.iter().filter_map(|round| round.get(name)).copied().collect();
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

fn cell(ascending: &[f64]) -> Option<String> {
    let (lowest, highest) = (ascending.first()?, ascending.last()?);
    let decimals = if *highest < 100.0 { 2 } else { 0 };
    let middle = median(ascending)?;
    Some(format!("{middle:.decimals$} ({lowest:.decimals$} to {highest:.decimals$})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        for (ours, theirs) in [(4.0, 2.0), (9.0, 1.0), (5.0, 3.0)] {
            report.add(OURS, Figures::from([("tcp1.gbit", ours), ("peak_rss_mb", 3.0)]));
            report.add("wireguard-go", Figures::from([("tcp1.gbit", theirs)]));
        }
        report
    }

    #[test]
    fn medians_and_ratios_are_by_subject_and_figure() {
        let Summary { median, ratio } = report().summary();
        assert_eq!(median[OURS]["tcp1.gbit"], 5.0);
        assert_eq!(median["wireguard-go"]["tcp1.gbit"], 2.0);
        assert_eq!(ratio["wireguard-go"], Figures::from([("tcp1.gbit", 2.5)]));
        assert!(!ratio.contains_key(OURS));
    }

    #[test]
    fn json_has_the_two_keys_that_programs_read() {
        let json = serde_json::to_value(report().summary()).unwrap();
        assert_eq!(json["median"]["wireloom"]["peak_rss_mb"], 3.0);
        assert_eq!(json["ratio"]["wireguard-go"]["tcp1.gbit"], 2.5);
    }

    #[test]
    fn the_table_shows_the_spread() {
        let table = report().table();
        assert!(table.contains("5.00 (4.00 to 9.00)"), "{table}");
        assert!(table.contains("wireloom / wireguard-go"), "{table}");
    }

    #[test]
    fn a_median_of_two_is_their_mean_and_of_none_nothing() {
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn nothing_is_divided_by_zero() {
        let mut report = Report::default();
        report.add(OURS, Figures::from([("tcp1.retransmits", 3.0)]));
        report.add("none", Figures::from([("tcp1.retransmits", 0.0)]));
        assert_eq!(report.summary().ratio["none"], Figures::new());
    }
}
