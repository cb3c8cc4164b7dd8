//! The files by which a runtime is told of networks, whoever put them there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::programs::PLUGIN;
use crate::whole;

/// How the name of a file ends that runtimes read (`libcni`, `ConfFiles`).
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// A file that a runtime looks at, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// The network that it describes; `None` if it names none.
    pub network: Option<String>,
    /// The programs that it has the runtime call, in their order: plugins, and those that give out addresses for them.
    pub programs: Vec<String>,
    /// Why it says nothing, if it does not.
    pub broken: Option<String>,
}

impl Listed {
    /// Whether it has our plugin called.
    pub fn has_ours(&self) -> bool {
        self.programs.iter().any(|program| program == PLUGIN)
    }

    fn read(path: PathBuf) -> Self {
        let said = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Value>(&bytes)?));
        let (said, mut broken) = match said {
            Ok(said) => (said, None),
            Err(error) => (Value::Null, Some(error.to_string())),
        };
        // A file that is no list describes a single plugin.
        let plugins = match &said["plugins"] {
            Value::Array(plugins) => plugins.as_slice(),
            _ => std::slice::from_ref(&said),
        };
        let programs: Vec<String> = plugins
            .iter()
            .flat_map(|plugin| [&plugin["type"], &plugin["ipam"]["type"]])
            .filter_map(|program| Some(program.as_str()?.to_owned()))
            .collect();
        if programs.is_empty() && broken.is_none() {
            broken = Some("it names no plugin".to_owned());
        }
        let network = said["name"].as_str().map(ToOwned::to_owned);
        Self { path, network, programs, broken }
    }
}

/// Reads all files of a directory that runtimes look at, such as `/etc/cni/net.d`, in their order: the first that says
/// something is the one that counts. None where there is no directory.
///
/// # Errors
///
/// What the system says of the directory.
pub fn survey(directory: &Path) -> io::Result<Vec<Listed>> {
    let names = readable(directory)?.into_iter();
    Ok(names.map(|name| Listed::read(directory.join(name))).collect())
}

/// The names of the files that runtimes look at, in their order.
pub(crate) fn readable(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = whole::names(directory)?;
    names.retain(|name| {
        let ending = Path::new(name).extension().and_then(|ending| ending.to_str());
        ending.is_some_and(|ending| EXTENSIONS.contains(&ending))
    });
    Ok(names)
}

/// Whether a list has ours in it.
pub(crate) fn has_ours(list: &Value) -> bool {
    let plugins = list["plugins"].as_array().into_iter().flatten();
    plugins.into_iter().any(|plugin| plugin["type"] == PLUGIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_look_at_is_read_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("net.d");
        assert_eq!(survey(&directory).unwrap(), []);
        fs::create_dir(&directory).unwrap();
        for (name, text) in [
            (
                "20-list.conflist",
                r#"{"name": "n", "plugins": [
                {"type": "bridge", "ipam": {"type": "host-local"}}, {"type": "wireloom"}]}"#,
            ),
            ("10-one.conf", r#"{"name": "one", "type": "ptp"}"#),
            ("05-half.json", r#"{"name": "ha"#),
            ("06-empty.conflist", r#"{"name": "empty", "plugins": []}"#),
            ("00-notes.txt", "{}"),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        let listed = survey(&directory).unwrap();
        let names: Vec<_> = listed.iter().map(|l| l.path.file_name().unwrap()).collect();
        assert_eq!(names, ["05-half.json", "06-empty.conflist", "10-one.conf", "20-list.conflist"]);
        assert!(listed[0].broken.is_some() && listed[1].broken.is_some());
        assert_eq!(
            (&listed[2].network, listed[2].programs.clone()),
            (&Some("one".to_owned()), vec!["ptp".to_owned()])
        );
        assert_eq!(listed[3].programs, ["bridge", "host-local", "wireloom"]);
        assert!(listed[3].has_ours() && !listed[2].has_ours());
    }
}
