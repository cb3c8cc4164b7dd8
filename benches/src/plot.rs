//! Bars of a run, as SVG: one picture a question, side by side a panel a figure, and a bar a subject.

use std::fmt::Write as _;

use crate::report::Report;
use crate::subject::{NONE, OURS};

/// One picture.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    /// Its file's name, without the end.
    pub name: &'static str,
    /// What it shows.
    pub title: &'static str,
    panels: &'static [Panel],
}

#[derive(Debug, Clone, Copy)]
struct Panel {
    figure: &'static str,
    heading: &'static str,
    unit: &'static str,
}

/// All pictures of a run.
pub const PLOTS: [Plot; 4] = [
    Plot {
        name: "tcp",
        title: "TCP between two hosts",
        panels: &[
            panel("tcp1.gbit", "1 stream", "Gbit/s"),
            panel("tcp8.gbit", "8 streams", "Gbit/s"),
            panel("tcpboth.gbit", "both ways, sum", "Gbit/s"),
            panel("eight.gbit", "8 peers into one, sum", "Gbit/s"),
        ],
    },
    Plot {
        name: "udp",
        title: "UDP between two hosts, received",
        panels: &[
            panel("udp1372.kpps", "flood, 1372 bytes", "1,000 a second"),
            panel("udp64.kpps", "flood, 64 bytes", "1,000 a second"),
            panel("udprate.kpps", "1372 bytes, loss ≤ 0.5 %", "1,000 a second"),
        ],
    },
    Plot {
        name: "cost",
        title: "What it costs: less is better",
        panels: &[
            panel("tcp1.cpu_s_per_gb", "CPU, whole machine", "s per GB"),
            panel("loadping.avg_us", "ping under TCP", "µs"),
            panel("peak_rss_mb", "peak memory of a device", "MB"),
        ],
    },
    Plot {
        name: "carried",
        title: "TCP, 1 stream, on other ways",
        panels: &[
            panel("forwarded.gbit", "from pod to pod", "Gbit/s"),
            panel("vxlan.gbit", "over VXLAN in the tunnel", "Gbit/s"),
            panel("idle1000.gbit", "beside 1,000 idle peers", "Gbit/s"),
        ],
    },
];

const fn panel(figure: &'static str, heading: &'static str, unit: &'static str) -> Panel {
    Panel { figure, heading, unit }
}

/// All lengths are in pixels.
const LABELS: f64 = 108.0;
const PANEL: f64 = 208.0;
/// The longest bar; the rest of a panel is for the number behind it.
const BAR: f64 = 130.0;
const ROW: f64 = 26.0;
const TOP: f64 = 76.0;

const STYLE: &str = "text{font:12px sans-serif;fill:#24292f}.title{font-size:15px;font-weight:bold}\
     .heading{font-weight:bold}.faint{fill:#6a737d}.theirs{fill:#a9b4c0}.ours{fill:#0a7d5a}\
     .end{text-anchor:end}.spread{stroke:#24292f;stroke-width:1}";

impl Plot {
    /// Draws the picture. The plain link has no bar, since it would make all others short; its number stands above.
    pub fn svg(&self, report: &Report) -> String {
        let mut subjects: Vec<&str> = report.subjects().filter(|name| *name != NONE).collect();
        subjects.sort_by_key(|name| (*name != OURS, *name));
        let width = LABELS + PANEL * self.panels.len() as f64;
        let height = TOP + ROW * subjects.len() as f64 + 8.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
        );
        text(&mut svg, 12.0, 24.0, "title", self.title);
        text(
            &mut svg,
            width - 12.0,
            24.0,
            "faint end",
            "bar: median; line: lowest to highest round",
        );
        for (row, subject) in subjects.iter().enumerate() {
            text(&mut svg, 12.0, middle(row) + 4.0, "", subject);
        }
        for (column, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, LABELS + PANEL * column as f64, &subjects, report);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, left: f64, subjects: &[&str], report: &Report) {
        text(svg, left, 48.0, "heading", self.heading);
        let mut unit = self.unit.to_owned();
        if let Some([_, median, _]) = report.range(NONE, self.figure) {
            let _ = write!(unit, " (no tunnel: {})", number(median));
        }
        text(svg, left, 64.0, "faint", &unit);
        let ranges: Vec<_> =
            subjects.iter().map(|subject| report.range(subject, self.figure)).collect();
        let most = ranges.iter().flatten().map(|[.., highest]| *highest).fold(0.0, f64::max);
        let scaled = |value: f64| if most > 0.0 { value / most * BAR } else { 0.0 };
        for (row, (subject, range)) in subjects.iter().zip(&ranges).enumerate() {
            let middle = middle(row);
            let Some([lowest, median, highest]) = *range else {
                text(svg, left, middle + 4.0, "faint", "not measured");
                continue;
            };
            let class = if *subject == OURS { "ours" } else { "theirs" };
            let (from, to, end) = (left + scaled(lowest), left + scaled(highest), scaled(median));
            let top = middle - 8.0;
            // Writing to a String cannot fail.
            let _ = writeln!(
                svg,
                "<rect class=\"{class}\" x=\"{left}\" y=\"{top}\" width=\"{end:.1}\" height=\"16\"/>\n\
                 <path class=\"spread\" d=\"M{from:.1} {middle}H{to:.1}\"/>"
            );
            text(svg, to.max(left + end) + 5.0, middle + 4.0, "", &number(median));
        }
    }
}

/// The middle of a row of bars.
fn middle(row: usize) -> f64 {
    TOP + ROW * (row as f64 + 0.5)
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    // Writing to a String cannot fail.
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}

/// Three digits that count, whole numbers with a comma.
fn number(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let whole = format!("{value:.0}");
    let (thousands, rest) = whole.split_at(whole.len().saturating_sub(3));
    if thousands.is_empty() { whole } else { format!("{thousands},{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Round;

    fn report() -> Report {
        let mut report = Report::default();
        for (subject, values) in
            [(OURS, [4.0, 5.0, 8.0]), ("gotatun", [1.0, 2.0, 3.0]), (NONE, [40.0, 41.0, 42.0])]
        {
            for value in values {
                let mut round = Round::default();
                round.figures.insert("tcp1.gbit".to_owned(), value);
                report.add(subject, round);
            }
        }
        report
    }

    #[test]
    fn the_best_round_fills_the_panel_and_medians_are_to_scale() {
        let svg = PLOTS[0].svg(&report());
        // 5 and 2 of 8, the highest round of all.
        assert!(svg.contains("class=\"ours\" x=\"108\" y=\"81\" width=\"81.2\""), "{svg}");
        assert!(svg.contains("class=\"theirs\" x=\"108\" y=\"107\" width=\"32.5\""), "{svg}");
        assert!(svg.contains("d=\"M173.0 89H238.0\""), "from 4 to 8: {svg}");
    }

    #[test]
    fn the_plain_link_is_a_number_and_what_is_missing_says_so() {
        let svg = PLOTS[0].svg(&report());
        assert!(svg.contains("Gbit/s (no tunnel: 41.0)"), "{svg}");
        assert_eq!(svg.matches("not measured").count(), 6, "two subjects, three figures");
    }

    #[test]
    fn numbers_show_three_digits() {
        assert_eq!([2.163, 21.44, 313.4, 7_795.2].map(number), ["2.16", "21.4", "313", "7,795"]);
    }
}
