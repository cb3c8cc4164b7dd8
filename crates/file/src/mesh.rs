//! A mesh file as a whole: its sections, and the settings that all nodes share.

use std::fs::Metadata;
use std::io::Read as _;
use std::num::{NonZeroU16, NonZeroU32};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use toml_edit::{Document, Item, Table, TableLike};
use wireloom_model::{
    Cidr, Encapsulation, Family, Filter, GatewayCount, Mesh, Overlay, Problem, Severity, Snapshot,
};

use crate::FileError;
use crate::entry::{Entry, entries, node, peer};
use crate::fields::{Fault, Fields, kind};
use crate::secret::{is_exposed, open_regular};

/// The overlay ranges of a mesh that names none. The IPv6 one spells "mesh" after the first byte of a ULA prefix.
const OVERLAY: [&str; 2] = ["10.4.0.0/16", "fd6d:6573:6800::/64"];
/// The port of a mesh that names none: the one in WireGuard's own examples.
const PORT: NonZeroU16 = NonZeroU16::new(51820).unwrap();
/// The datagram that every IPv4 host takes whole, in bytes (RFC 791, section 3.1).
const LEAST_MTU: u16 = 576;
/// The least MTU of an IPv6 link, in bytes (RFC 8200, section 5).
const LEAST_MTU_V6: u16 = 1280;

/// Reads and parses a mesh file. Entries that are wrong are skipped and stand among the snapshot's problems.
///
/// A preshared key that others can read, in the mesh file or in its own, is a warning there.
///
/// # Errors
///
/// If the file can't be read or is of no use as a whole.
pub fn load(path: &Path) -> Result<Snapshot, FileError> {
    let (bytes, exposed) =
        read(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    match str::from_utf8(&bytes) {
        Ok(text) => Source { text, path, exposed }.snapshot(),
        Err(error) => {
            let valid = String::from_utf8_lossy(bytes.get(..error.valid_up_to()).unwrap_or(&[]));
            let source = Source { text: &valid, path, exposed };
            Err(source.invalid(valid.len(), "the byte here is no UTF-8".to_owned()))
        }
    }
}

/// Parses the text of a mesh file that lies at this path; its preshared-key files are looked for beside it. Entries
/// that are wrong are skipped and stand among the snapshot's problems.
///
/// # Errors
///
/// If the text is of no use as a whole.
pub fn parse(text: &str, path: &Path) -> Result<Snapshot, FileError> {
    Source { text, path, exposed: false }.snapshot()
}

fn read(path: &Path) -> std::io::Result<(Vec<u8>, bool)> {
    let mut file = open_regular(path)?;
    let mode = |metadata: Metadata| metadata.permissions().mode();
    let exposed = is_exposed(file.metadata().map(mode)?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok((bytes, exposed))
}

/// A mesh file's text, and where it comes from.
pub(crate) struct Source<'a> {
    pub(crate) text: &'a str,
    pub(crate) path: &'a Path,
    /// Whether others than the file's owner may read it.
    pub(crate) exposed: bool,
}

impl Source<'_> {
    fn snapshot(&self) -> Result<Snapshot, FileError> {
        let document = Document::parse(self.text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            self.invalid(offset, error.message().trim().replace('\n', ", "))
        })?;
        let absent = Table::new();
        let mut root = Fields::new(document.as_table(), 0);
        let settings = root.value("mesh", |item| {
            let rule = || format!("a section [mesh] belongs here, not {}", kind(item));
            item.as_table_like().ok_or_else(rule)
        });
        let start = root.offset("mesh");
        let nodes = root.value("node", entries).unwrap_or_default();
        let peers = root.value("peer", entries).unwrap_or_default();
        self.refuse(root.finish())?;
        let mesh = self.mesh(settings.unwrap_or(&absent), start)?;
        if nodes.is_empty() {
            return Err(self.invalid(0, "the file lists no [[node]]".to_owned()));
        }
        let mut problems = Vec::new();
        let port = mesh.port;
        let nodes = self
            .read_entries(&nodes, "node", &mut problems, |fields, since| node(fields, port, since));
        let peers = self.read_entries(&peers, "peer", &mut problems, |fields, since| {
            peer(fields, port, since, self)
        });
        Ok(Snapshot { mesh, nodes, peers, problems })
    }

    fn mesh(&self, settings: &dyn TableLike, start: usize) -> Result<Mesh, FileError> {
        let mut fields = Fields::new(settings, start);
        let ranges = fields.list("overlay");
        let gateways = fields.value("gateways", gateway_count);
        let port = fields.number("port", 1..=u16::MAX).and_then(NonZeroU16::new);
        let mtu = fields.number("mtu", LEAST_MTU..=u16::MAX).and_then(NonZeroU16::new);
        let carry_internal_addresses = fields.flag("carry-internal-addresses");
        let encapsulation = Encapsulation {
            when: fields.text("encapsulation").unwrap_or_default(),
            by: fields.text("encapsulate-by").unwrap_or_default(),
        };
        let filter = Filter {
            clamp_mss: fields.flag("clamp-mss").unwrap_or(true),
            masquerade: fields.flag("masquerade").unwrap_or(false),
            services: fields.list("service-prefixes").unwrap_or_default(),
            forward_accept: fields.flag("forward-accept").unwrap_or(false),
        };
        let place = fields.offset("overlay");

        let defaults = || OVERLAY.iter().filter_map(|range| range.parse().ok()).collect();
        let ranges: Vec<Cidr> = ranges.unwrap_or_else(defaults);
        let overlay = Overlay::new(ranges);
        if let (Ok(overlay), Some(mtu)) = (&overlay, mtu)
            && let Some(range) = overlay.range(Family::V6)
            && mtu.get() < LEAST_MTU_V6
        {
            fields.refuse(
                "mtu",
                &format!("{mtu} is below {LEAST_MTU_V6}, which the IPv6 overlay {range} needs"),
            );
        }
        self.refuse(fields.finish())?;
        Ok(Mesh {
            overlay: overlay.map_err(|error| self.invalid(place, format!("overlay: {error}")))?,
            gateways: gateways.unwrap_or(GatewayCount::AtMost(NonZeroU32::MIN)),
            port: port.unwrap_or(PORT),
            mtu,
            carry_internal_addresses: carry_internal_addresses.unwrap_or(true),
            encapsulation,
            filter,
        })
    }

    /// Makes an error of the first fault.
    fn refuse(&self, faults: Vec<Fault>) -> Result<(), FileError> {
        match faults.into_iter().next() {
            None => Ok(()),
            Some(fault) => Err(self.invalid(fault.offset, fault.reason)),
        }
    }

    fn invalid(&self, offset: usize, reason: String) -> FileError {
        let (line, column) = position(self.text, offset);
        FileError::Invalid { path: self.path.to_owned(), line, column, reason }
    }

    /// Reads the entries of one section. One with a fault is skipped, and each of its faults is a problem.
    fn read_entries<T>(
        &self,
        entries: &[Entry<'_>],
        section: &str,
        problems: &mut Vec<Problem>,
        read: impl Fn(&mut Fields<'_>, u64) -> Option<T>,
    ) -> Vec<T> {
        let file = self.path.file_name().unwrap_or(self.path.as_os_str()).display();
        let mut values = Vec::new();
        for (since, entry) in (0..).zip(entries) {
            let mut fields = Fields::new(entry.table, entry.start);
            let value = read(&mut fields, since);
            let faults = fields.finish();
            if faults.iter().all(|fault| fault.severity == Severity::Warning) {
                values.extend(value);
            }
            problems.extend(faults.into_iter().map(|fault| {
                let (line, _) = position(self.text, fault.offset);
                Problem {
                    severity: fault.severity,
                    subject: entry.subject(section, since),
                    kind: fault.kind,
                    message: format!("{file} line {line}: {}", fault.reason),
                }
            }));
        }
        values
    }
}

fn gateway_count(item: &Item) -> Result<GatewayCount, String> {
    let text = match (item.as_integer(), item.as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(text)) => text.to_owned(),
        (None, None) => {
            return Err(format!("a number or \"all\" belongs here, not {}", kind(item)));
        }
    };
    text.parse().map_err(|error: wireloom_model::snapshot::GatewayCountError| error.to_string())
}

/// The line and the column of a byte, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let column = before.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    (line, String::from_utf8_lossy(column).chars().count() + 1)
}

#[cfg(test)]
mod tests;
