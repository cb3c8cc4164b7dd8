//! Reads the tables of a mesh file key by key, and collects everything that is wrong in them.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use toml_edit::{Item, TableLike};
use wireloom_model::{ProblemKind, Severity};

/// Something wrong at one place of the file.
#[derive(Debug)]
pub(crate) struct Fault {
    /// The byte where it stands.
    pub(crate) offset: usize,
    /// Whether it spoils its table.
    pub(crate) severity: Severity,
    /// Its kind, for programs.
    pub(crate) kind: ProblemKind,
    /// The key, the value and the rule.
    pub(crate) reason: String,
}

/// A table while it is read. Every key that is asked for is known; the others are faults in the end.
pub(crate) struct Fields<'a> {
    table: &'a dyn TableLike,
    start: usize,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'a> Fields<'a> {
    /// Begins to read a table that begins at this byte.
    pub(crate) const fn new(table: &'a dyn TableLike, start: usize) -> Self {
        Self { table, start, known: Vec::new(), faults: Vec::new() }
    }

    /// The value of a key as it stands in the file.
    pub(crate) fn item(&mut self, key: &'static str) -> Option<&'a Item> {
        self.known.push(key);
        self.table.get(key)
    }

    /// A value by a rule of its own. `None` if the key is missing, or wrong and now a fault.
    pub(crate) fn value<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&'a Item) -> Result<T, String>,
    ) -> Option<T> {
        let item = self.item(key)?;
        read(item).map_err(|reason| self.wrong(key, item.span(), &reason)).ok()
    }

    /// A value that is written as a text.
    pub(crate) fn text<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<T> {
        self.value(key, parse_text)
    }

    /// A list of values that are written as texts. `None` if the key is missing, or any value wrong and now a fault.
    pub(crate) fn list<T: FromStr<Err: Display>>(&mut self, key: &'static str) -> Option<Vec<T>> {
        let array = self.value(key, |item| {
            let rule = || format!("a list in brackets belongs here, not {}", kind(item));
            item.as_array().ok_or_else(rule)
        })?;
        let mut values = Vec::new();
        for element in array {
            let rule = || format!("texts in quotes belong here, not {}", a(element.type_name()));
            let text = element.as_str().ok_or_else(rule);
            match text.and_then(|text| text.parse().map_err(|error: T::Err| error.to_string())) {
                Ok(value) => values.push(value),
                Err(reason) => self.wrong(key, element.span(), &reason),
            }
        }
        (values.len() == array.len()).then_some(values)
    }

    /// A whole number within bounds.
    pub(crate) fn number(&mut self, key: &'static str, bounds: RangeInclusive<u16>) -> Option<u16> {
        self.value(key, |item| {
            let number = item.as_integer().and_then(|number| u16::try_from(number).ok());
            number.filter(|number| bounds.contains(number)).ok_or_else(|| {
                let found = item.as_integer().map_or_else(|| kind(item), |n| n.to_string());
                let (least, most) = (bounds.start(), bounds.end());
                format!("a whole number from {least} to {most} belongs here, not {found}")
            })
        })
    }

    /// A value that is `true` or `false`.
    pub(crate) fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.value(key, |item| {
            item.as_bool().ok_or_else(|| format!("true or false belongs here, not {}", kind(item)))
        })
    }

    /// Makes a fault of every one of these keys that is missing.
    pub(crate) fn require(&mut self, keys: &[&str]) {
        for key in keys {
            if !self.table.contains_key(key) {
                self.fault(self.start, format!("{key} is missing"));
            }
        }
    }

    /// Makes a fault of a key's value, where it stands.
    pub(crate) fn refuse(&mut self, key: &'static str, reason: &str) {
        self.fault(self.offset(key), format!("{key}: {reason}"));
    }

    /// Where a key's value stands; the table's own place if the key is missing.
    pub(crate) fn offset(&self, key: &str) -> usize {
        self.table.get(key).and_then(Item::span).map_or(self.start, |span| span.start)
    }

    /// Says that a key's value is a secret which others can read. Does not spoil the table.
    pub(crate) fn exposed(&mut self, key: &'static str, reason: String) {
        let offset = self.offset(key);
        let (severity, kind) = (Severity::Warning, ProblemKind::ExposedSecret);
        self.faults.push(Fault { offset, severity, kind, reason });
    }

    /// All faults in the order of the file, those of unknown keys among them.
    pub(crate) fn finish(mut self) -> Vec<Fault> {
        let table = self.table;
        for (key, item) in table.iter().filter(|(_, item)| !item.is_none()) {
            if !self.known.contains(&key) {
                let span = table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                let offset = span.map_or(self.start, |span| span.start);
                let hint = self.hint(key);
                self.fault(offset, format!("{key:?} is no key of this section; {hint}"));
            }
        }
        self.faults.sort_by_key(|fault| fault.offset);
        self.faults
    }

    fn wrong(&mut self, key: &str, span: Option<Range<usize>>, reason: &str) {
        let offset = span.map_or(self.start, |span| span.start);
        self.fault(offset, format!("{key}: {reason}"));
    }

    fn fault(&mut self, offset: usize, reason: String) {
        let (severity, kind) = (Severity::Error, ProblemKind::Invalid);
        self.faults.push(Fault { offset, severity, kind, reason });
    }

    /// The known key that was probably meant, or all of them.
    fn hint(&self, key: &str) -> String {
        let distance = |known: &&&'static str| strsim::damerau_levenshtein(key, known);
        match self.known.iter().min_by_key(distance) {
            Some(nearest) if distance(&nearest) <= nearest.len().div_ceil(3) => {
                format!("did you mean {nearest:?}?")
            }
            _ => format!("its keys are {}", self.known.join(", ")),
        }
    }
}

fn parse_text<T: FromStr<Err: Display>>(item: &Item) -> Result<T, String> {
    let text = item
        .as_str()
        .ok_or_else(|| format!("a text in quotes belongs here, not {}", kind(item)))?;
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// What a value is, with its article. Never the value itself, which may be a secret.
pub(crate) fn kind(item: &Item) -> String {
    a(item.type_name())
}

fn a(noun: &str) -> String {
    let an = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if an { "an" } else { "a" })
}
