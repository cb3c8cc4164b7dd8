//! Writes overlay addresses into a mesh file.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::Path;

use tempfile::NamedTempFile;
use toml_edit::{Array, DocumentMut, Item, TableLike, Value};
use wireloom_model::NodeName;

use crate::{FileError, parse};

/// The text of a mesh file with these overlay addresses fixed for these nodes; comments and layout stay as they are.
/// Nodes that the file does not list are passed over. Pinning the same again changes nothing.
///
/// # Errors
///
/// If the text, which lies at this path, is no mesh file.
pub fn pin(text: &str, path: &Path, pins: &[(NodeName, Vec<IpAddr>)]) -> Result<String, FileError> {
    parse(text, path)?;
    // What `parse` takes is TOML, so this never fails; a text that no pin applies to stays as it is all the same.
    let Ok(mut document) = text.parse::<DocumentMut>() else { return Ok(text.to_owned()) };
    for entry in document.get_mut("node").into_iter().flat_map(tables) {
        let name = entry.get("name").and_then(Item::as_str);
        if let Some((_, addresses)) = pins.iter().find(|(node, _)| Some(node.as_str()) == name) {
            set(entry, addresses);
        }
    }
    Ok(document.to_string())
}

/// Pins in the file itself, and returns whether that changed it. A file that changes is replaced whole, with the owner and
/// mode of the old one, so that nodes which follow it read the old text or the new.
///
/// # Errors
///
/// If the file can't be read or written, or is no mesh file.
pub fn pin_file(path: &Path, pins: &[(NodeName, Vec<IpAddr>)]) -> Result<bool, FileError> {
    let read = |source| FileError::Read { path: path.to_owned(), source };
    // Through a symbolic link its target is replaced, not the link.
    let target = path.canonicalize().map_err(read)?;
    let text = fs::read_to_string(&target).map_err(read)?;
    let pinned = pin(&text, path, pins)?;
    if pinned != text {
        replace(&target, &pinned)
            .map_err(|source| FileError::Write { path: path.to_owned(), source })?;
    }
    Ok(pinned != text)
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut file = NamedTempFile::new_in(path.parent().unwrap_or(path))?;
    file.write_all(text.as_bytes())?;
    let old = fs::metadata(path)?;
    fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
    file.as_file().set_permissions(old.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn tables(item: &mut Item) -> Box<dyn Iterator<Item = &mut dyn TableLike> + '_> {
    match item {
        Item::ArrayOfTables(tables) => Box::new(tables.iter_mut().map(|t| t as &mut dyn TableLike)),
        Item::Value(Value::Array(array)) => Box::new(
            array
                .iter_mut()
                .filter_map(Value::as_inline_table_mut)
                .map(|t| t as &mut dyn TableLike),
        ),
        _ => Box::new(std::iter::empty()),
    }
}

fn set(entry: &mut dyn TableLike, addresses: &[IpAddr]) {
    const KEY: &str = "overlay-addresses";
    let mut value = Value::from(addresses.iter().map(ToString::to_string).collect::<Array>());
    match entry.get_mut(KEY).and_then(Item::as_value_mut) {
        Some(old) => {
            // White space and a comment behind the value belong to its decor.
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        None => {
            entry.insert(KEY, Item::Value(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use insta::assert_snapshot;

    use super::*;

    const TEXT: &str = r#"# Our mesh.
[mesh]   # as it always was
gateways = 2

[[node]] # the big one
name = "a"
public-key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
overlay-addresses = [ "10.4.0.9" ] # to be moved

# Nobody's.
[[node]]
public-key   =   "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=" # odd spaces
name = 'b'

[[node]]
name = "c"
public-key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
"#;

    fn pins(list: &[(&str, &[&str])]) -> Vec<(NodeName, Vec<IpAddr>)> {
        list.iter()
            .map(|(name, addresses)| {
                (name.parse().unwrap(), addresses.iter().map(|a| a.parse().unwrap()).collect())
            })
            .collect()
    }

    #[test]
    fn addresses_are_written_and_all_else_stays() {
        let pins = pins(&[("a", &["10.4.0.1", "fd00::1"]), ("b", &["10.4.0.2"]), ("zzz", &[])]);
        let path = Path::new("mesh.toml");
        let pinned = pin(TEXT, path, &pins).unwrap();
        assert_snapshot!("pinned", pinned);
        assert_eq!(pin(&pinned, path, &pins).unwrap(), pinned);
        let snapshot = parse(&pinned, path).unwrap();
        let (before, problems) = (parse(TEXT, path).unwrap(), snapshot.problems);
        assert_eq!(problems, []);
        for (node, old) in snapshot.nodes.iter().zip(before.nodes) {
            let pin = pins.iter().find(|(name, _)| *name == node.name);
            let expected = pin.map_or(&old.overlay_addresses, |(_, addresses)| addresses);
            assert_eq!(&node.overlay_addresses, expected, "{}", node.name);
        }
    }

    #[test]
    fn a_file_is_replaced_behind_its_link_and_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, TEXT).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        let pins = pins(&[("b", &["10.4.0.2"])]);
        assert!(pin_file(&link, &pins).unwrap());
        assert!(!pin_file(&link, &pins).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let metadata = fs::metadata(&file).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_to_string(&file).unwrap(), pin(TEXT, &file, &pins).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn nothing_to_pin_changes_nothing() {
        assert_eq!(pin(TEXT, Path::new("mesh.toml"), &[]).unwrap(), TEXT);
        assert!(pin("[mesh", Path::new("mesh.toml"), &[]).is_err());
    }

    #[test]
    fn inline_entries_are_pinned_too() {
        let key = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
        let text = format!("node = [{{ name = \"a\", public-key = \"{key}\" }}]\n");
        let pins = pins(&[("a", &["10.4.0.1"])]);
        let pinned = pin(&text, Path::new("mesh.toml"), &pins).unwrap();
        let snapshot = parse(&pinned, Path::new("mesh.toml")).unwrap();
        assert_eq!(snapshot.nodes[0].overlay_addresses, pins[0].1);
    }
}
