use serde_json::json;

use super::*;

/// As flannel's manifest has it: not as we would write it.
const FLANNEL: &str = r#"{ "name": "cbr0", "cniVersion": "0.3.1",
  "plugins": [ {"type":"flannel", "delegate": {"hairpinMode": true}}, {"type": "portmap"} ] }"#;

struct Place {
    folder: tempfile::TempDir,
    chain: Chain,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let chain = Chain::new(folder.path().to_owned(), "/run/wireloom".into());
        Self { folder, chain }
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap()
    }

    fn types(&self, name: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(&self.text(name)).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn ours_comes_last_once_and_the_list_comes_back_to_the_byte() {
    let place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    let path = place.folder.path().join("10-flannel.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(place.chain.follow().unwrap(), Some(path.clone()));
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "portmap", "wireloom"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(place.chain.follow().unwrap(), None);
    place.chain.leave().unwrap();
    assert_eq!(place.text("10-flannel.conflist"), FLANNEL);
    assert_eq!(place.names(), ["10-flannel.conflist"]);
    place.chain.leave().unwrap();
}

#[test]
fn a_list_that_its_owner_writes_anew_is_chained_anew() {
    let place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.chain.follow().unwrap();
    let newer = FLANNEL.replace("portmap", "bandwidth");
    place.put("10-flannel.conflist", &newer);
    assert!(place.chain.follow().unwrap().is_some());
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "bandwidth", "wireloom"]);
    place.chain.leave().unwrap();
    assert_eq!(place.text("10-flannel.conflist"), newer);
}

#[test]
fn what_somebody_changed_with_us_in_it_stays_changed() {
    let place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.chain.follow().unwrap();
    let changed = place.text("10-flannel.conflist").replace("cbr0", "cbr1");
    place.put("10-flannel.conflist", &changed);
    assert_eq!(place.chain.follow().unwrap(), None);
    place.chain.leave().unwrap();
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "portmap"]);
    assert!(place.text("10-flannel.conflist").contains("cbr1"));
}

#[test]
fn a_list_that_comes_first_takes_our_place() {
    let place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.chain.follow().unwrap();
    let other = json!({"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp"}]});
    place.put("05-other.conflist", &other.to_string());
    place.chain.follow().unwrap();
    assert_eq!(place.types("05-other.conflist"), ["ptp", "wireloom"]);
    assert_eq!(place.text("10-flannel.conflist"), FLANNEL);
    // One that its owner takes away while we are in it is not brought back.
    fs::remove_file(place.folder.path().join("05-other.conflist")).unwrap();
    place.chain.follow().unwrap();
    assert_eq!(place.names(), [".10-flannel.conflist.before-wireloom", "10-flannel.conflist"]);
}

#[test]
fn alone_nothing_is_written() {
    let place = Place::new();
    assert!(matches!(place.chain.follow(), Err(ChainError::Alone { .. })));
    assert_eq!(place.names(), [""; 0]);
    for (name, text) in [("10-a.conf", r#"{"type": "bridge"}"#), ("05-b.conflist", "{\"na")] {
        place.put(name, text);
        let error = place.chain.follow().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(place.text(name), text);
    }
}
