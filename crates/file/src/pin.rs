//! Writes overlay addresses into a mesh file.

use std::net::IpAddr;
use std::path::Path;

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
