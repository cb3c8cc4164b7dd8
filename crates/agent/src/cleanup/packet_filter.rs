//! Kilo's chains and rules in the packet filter, which it makes by the iptables programs: found in what `iptables-save`
//! or `nft -j list ruleset` print, and taken away by a script for `iptables-restore` or `nft`.
//!
//! `iptables-save` comes first, because it tells comments. `nft` tells of a comment no more than that there is one.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// The chains of Kilo (`Topology.Rules` and the encapsulators of Kilo).
const CHAINS: [&str; 2] = ["KILO-IPIP", "KILO-NAT"];

/// How the comment of every rule of Kilo begins.
const COMMENT: &str = "Kilo: ";

/// A program that prints the packet filter, and the one that takes a script to change it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    print: &'static [&'static str],
    change: &'static [&'static str],
    find: fn(&str) -> Option<Found>,
}

/// What of Kilo is in a packet filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its rules and chains, in words.
    pub(crate) things: Vec<String>,
    /// What takes them away, in one go.
    pub(crate) script: String,
}

macro_rules! iptables {
    ($name:literal) => {
        Tool {
            print: &[concat!($name, "-save")],
            change: &[concat!($name, "-restore"), "--noflush"],
            find: in_iptables,
        }
    };
}

macro_rules! nft {
    ($family:literal) => {
        Tool {
            print: &["nft", "-j", "list", "ruleset"],
            change: &["nft", "-f", "-"],
            find: |text| in_nft(text, $family),
        }
    };
}

/// Alternatives: of each group the first that finds something counts, for the others see the same. Rules of the old and
/// the new kind live side by side.
const TOOLS: [&[Tool]; 4] = [
    &[iptables!("iptables-legacy")],
    &[iptables!("ip6tables-legacy")],
    &[iptables!("iptables-nft"), iptables!("iptables"), nft!("ip")],
    &[iptables!("ip6tables-nft"), iptables!("ip6tables"), nft!("ip6")],
];

/// Asks every tool that is there.
pub(crate) fn look() -> Vec<(Tool, Found)> {
    // A tool that is not there or fails has no packet filter to tell of.
    let look = |tool: &Tool| Some((*tool, (tool.find)(&run(tool.print, "").ok()?)?));
    TOOLS.iter().filter_map(|group| group.iter().find_map(look)).collect()
}

/// What may hold rules and no program here can show: the tables of the older iptables, which `nft` knows nothing of.
pub(crate) fn unseen() -> Vec<String> {
    let families =
        [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")];
    let is_there = |file: &str| {
        let names = fs::read_to_string(Path::new("/proc/thread-self/net").join(file));
        names.is_ok_and(|names| !names.trim().is_empty())
    };
    let is_lacking = |program: &str| {
        let tried = Command::new(program).arg("--version").output();
        tried.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let unseen =
        families.into_iter().filter(|(file, program)| is_there(file) && is_lacking(program));
    unseen
        .map(|(_, program)| {
            format!("what is in the tables of {program}: there is no such program here; say this again where it is")
        })
        .collect()
}

impl Tool {
    pub(crate) fn remove(self, found: &Found) -> io::Result<()> {
        run(self.change, &found.script).map(drop)
    }
}

fn run(command: &[&str], input: &str) -> io::Result<String> {
    let (program, args) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program}: {reason}")))
}

/// In the text of `iptables-save`.
fn in_iptables(text: &str) -> Option<Found> {
    let mut found = Found { things: Vec::new(), script: String::new() };
    for table in text.split("\n*").map(|table| table.trim_start_matches('*')) {
        let Some(name) = table.lines().find(|line| !line.starts_with('#')) else { continue };
        let (mut rules, mut chains) = (Vec::new(), Vec::new());
        for line in table.lines() {
            if let Some(rule) = line.strip_prefix("-A ") {
                let chain = rule.split(' ').next().unwrap_or_default();
                let jumps = CHAINS.iter().any(|chain| rule.ends_with(&format!(" -j {chain}")));
                let is_signed = rule.contains(&format!("--comment \"{COMMENT}"));
                if !CHAINS.contains(&chain) && (jumps || is_signed) {
                    rules.push(rule);
                }
            } else if let Some(chain) = line.strip_prefix(':') {
                chains.extend(chain.split(' ').next().filter(|chain| CHAINS.contains(chain)));
            }
        }
        if rules.is_empty() && chains.is_empty() {
            continue;
        }
        found.things.extend(rules.iter().map(|rule| format!("the rule {name} {rule}")));
        found.things.extend(chains.iter().map(|chain| format!("the chain {name} {chain}")));
        let lines = rules.iter().map(|rule| format!("-D {rule}\n"));
        let flushed = chains.iter().map(|chain| format!("-F {chain}\n"));
        let deleted = chains.iter().map(|chain| format!("-X {chain}\n"));
        let body: String = lines.chain(flushed).chain(deleted).collect();
        found.script += &format!("*{name}\n{body}COMMIT\n");
    }
    (!found.things.is_empty()).then_some(found)
}

/// In the tables that iptables uses for a family, as `nft -j list ruleset` tells them (libnftables-json(5)).
fn in_nft(text: &str, family: &str) -> Option<Found> {
    let told: Value = serde_json::from_str(text).ok()?;
    let (mut rules, mut chains) = (Vec::new(), Vec::new());
    // The rule that drops what Kilo's chain let pass stands right behind the jump there.
    let mut behind_jump = None;
    for object in told["nftables"].as_array()? {
        if let Some(place) = place(&object["chain"], "name", family) {
            if place.is_kilos() {
                chains.push(place);
            }
        } else if let Some(place) = place(&object["rule"], "chain", family) {
            let rule = &object["rule"];
            let target = ["jump", "goto"].iter().find_map(|verb| verdict(rule, verb));
            let target = target.and_then(|target| target["target"].as_str());
            let jumps = target.is_some_and(|target| CHAINS.contains(&target));
            let is_signed = rule["comment"].as_str().is_some_and(|text| text.starts_with(COMMENT));
            let drops = behind_jump.take() == Some(place) && drops_ipip(rule);
            if !place.is_kilos() && (jumps || is_signed || drops) {
                rules.push((place, rule["handle"].as_u64()?));
            }
            behind_jump = (target == Some("KILO-IPIP")).then_some(place);
        }
    }
    let of_rules = rules.iter().map(|(place, handle)| format!("{place} handle {handle}"));
    let of_rules: Vec<String> = of_rules.collect();
    let lines = of_rules.iter().map(|rule| format!("delete rule {rule}\n"));
    let flushed = chains.iter().map(|chain| format!("flush chain {chain}\n"));
    let deleted = chains.iter().map(|chain| format!("delete chain {chain}\n"));
    let script: String = lines.chain(flushed).chain(deleted).collect();
    let things = of_rules.iter().map(|rule| format!("the rule {rule}"));
    let things = things.chain(chains.iter().map(|chain| format!("the chain {chain}"))).collect();
    (!script.is_empty()).then_some(Found { things, script })
}

/// A chain of a table that iptables uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    family: &'a str,
    table: &'a str,
    chain: &'a str,
}

fn place<'a>(object: &'a Value, chain: &str, family: &str) -> Option<Place<'a>> {
    let text = |key: &str| object[key].as_str();
    let place = Place { family: text("family")?, table: text("table")?, chain: text(chain)? };
    (place.family == family && matches!(place.table, "filter" | "nat")).then_some(place)
}

impl Place<'_> {
    fn is_kilos(&self) -> bool {
        CHAINS.contains(&self.chain)
    }
}

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.family, self.table, self.chain)
    }
}

fn verdict<'a>(rule: &'a Value, verb: &str) -> Option<&'a Value> {
    rule["expr"].as_array()?.iter().find_map(|expression| expression.get(verb))
}

/// Whether it drops IP protocol 4, which has several names (`/etc/protocols`).
fn drops_ipip(rule: &Value) -> bool {
    let is_ipip = |right: &Value| {
        right == 4 || right.as_str().is_some_and(|name| matches!(name, "4" | "ipencap" | "ipip"))
    };
    let expressions = rule["expr"].as_array().into_iter().flatten();
    let mut matches = expressions.filter_map(|expression| expression.get("match"));
    verdict(rule, "drop").is_some() && matches.any(|condition| is_ipip(&condition["right"]))
}

#[cfg(test)]
mod tests;
