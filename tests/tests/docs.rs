//! What the documentation names is there: the files that it links to, and the commands that it tells people to type.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wireloom_testkit::wireloom_binary;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Every page, with its text.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    for directory in ["", "docs", "deploy"] {
        for entry in fs::read_dir(Path::new(ROOT).join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                pages.insert(path, text);
            }
        }
    }
    assert!(pages.len() > 5, "{:?}", pages.keys());
    pages
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for (page, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap();
            if !page.parent().unwrap().join(file).exists() {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn what_is_applied_is_there() {
    let mut missing = BTreeSet::new();
    for (page, text) in pages() {
        let words = text.split(|c: char| c.is_whitespace() || "`\"',;()[]{}".contains(c));
        for path in words.filter(|word| word.starts_with("deploy/")) {
            let path = path.trim_end_matches(['.', ':']);
            if !Path::new(ROOT).join(path).exists() {
                missing.insert(format!("{}: {path}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_command_in_a_block_exists() {
    let mut commands: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (page, text) in pages() {
        // Between fences is every second part.
        for block in text.split("```").skip(1).step_by(2) {
            let (language, lines) = block.split_once('\n').unwrap();
            if !["console", "sh"].contains(&language) {
                continue;
            }
            let typed = |line: &str| language == "sh" || line.trim_start().starts_with("$ ");
            for line in lines.lines().filter(|line| typed(line)) {
                let words: Vec<&str> = line.split_whitespace().collect();
                for pair in words.windows(2).filter(|pair| pair[0] == "wireloom") {
                    if pair[1].chars().all(|c| c.is_ascii_lowercase()) {
                        commands.insert(pair[1].to_owned(), page.clone());
                    }
                }
            }
        }
    }
    assert!(commands.contains_key("keygen") && commands.contains_key("up"), "{commands:?}");
    for (command, page) in commands {
        let help = Command::new(wireloom_binary()).args([&command, "--help"]).output().unwrap();
        assert!(help.status.success(), "{}: there is no wireloom {command}", page.display());
    }
}
