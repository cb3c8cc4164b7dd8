use std::io::Write as _;

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
        let directories =
            Directories { run: "/run/wireloom".into(), state: "/var/lib/wireloom".into() };
        let chain = Chain::new(folder.path().to_owned(), directories);
        Self { folder, chain }
    }

    fn follow(&mut self) -> Result<Option<PathBuf>, ChainError> {
        self.chain.follow(Instant::now())
    }

    fn leave(&mut self) {
        for (path, left) in self.chain.leave() {
            left.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
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
    let mut place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    let path = place.folder.path().join("10-flannel.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(place.follow().unwrap(), Some(path.clone()));
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "portmap", "wireloom"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(place.follow().unwrap(), None);
    place.leave();
    assert_eq!(place.text("10-flannel.conflist"), FLANNEL);
    assert_eq!(place.names(), ["10-flannel.conflist"]);
    place.leave();
}

#[test]
fn a_list_that_its_owner_writes_anew_is_chained_anew() {
    let mut place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.follow().unwrap();
    let newer = FLANNEL.replace("portmap", "bandwidth");
    place.put("10-flannel.conflist", &newer);
    assert!(place.follow().unwrap().is_some());
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "bandwidth", "wireloom"]);
    place.leave();
    assert_eq!(place.text("10-flannel.conflist"), newer);
}

#[test]
fn what_somebody_changed_with_us_in_it_stays_changed() {
    let mut place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.follow().unwrap();
    let changed = place.text("10-flannel.conflist").replace("cbr0", "cbr1");
    place.put("10-flannel.conflist", &changed);
    assert_eq!(place.follow().unwrap(), None);
    place.leave();
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "portmap"]);
    assert!(place.text("10-flannel.conflist").contains("cbr1"));
}

#[test]
fn a_list_that_comes_first_takes_our_place() {
    let mut place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.follow().unwrap();
    let other = json!({"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "ptp"}]});
    place.put("05-other.conflist", &other.to_string());
    place.follow().unwrap();
    assert_eq!(place.types("05-other.conflist"), ["ptp", "wireloom"]);
    assert_eq!(place.text("10-flannel.conflist"), FLANNEL);
    // One that its owner takes away while we are in it is not brought back.
    fs::remove_file(place.folder.path().join("05-other.conflist")).unwrap();
    place.follow().unwrap();
    assert_eq!(place.names(), [".10-flannel.conflist.before-wireloom", "10-flannel.conflist"]);
}

#[test]
fn alone_nothing_is_written() {
    let mut place = Place::new();
    assert!(matches!(place.follow(), Err(ChainError::Alone { .. })));
    assert_eq!(place.names(), [""; 0]);
    for (name, text) in [("10-a.conf", r#"{"type": "bridge"}"#), ("05-b.conflist", "{\"na")] {
        place.put(name, text);
        let error = place.follow().unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(place.text(name), text);
    }
}

#[test]
fn a_list_of_a_version_that_ours_does_not_speak_stays_as_it_is() {
    let mut place = Place::new();
    for (version, named) in [
        (json!({}), "nothing"),
        (json!({ "cniVersion": "0.2.0" }), "0.2.0"),
        (json!({ "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "2.0.0"] }), "2.0.0"),
        (json!({ "cniVersion": 1 }), "1"),
    ] {
        let mut list = version;
        list["name"] = "azure".into();
        list["plugins"] = json!([{ "type": "azure-vnet" }]);
        place.put("10-azure.conflist", &list.to_string());
        let error = place.follow().unwrap_err();
        assert!(error.to_string().contains(&format!("names {named} as")), "{error}");
        assert_eq!(place.text("10-azure.conflist"), list.to_string());
        assert_eq!(place.names(), ["10-azure.conflist"]);
        // If ours got there all the same, it goes.
        list["plugins"] = json!([{ "type": "azure-vnet" }, { "type": "wireloom" }]);
        place.put("10-azure.conflist", &list.to_string());
        place.follow().unwrap_err();
        assert_eq!(place.types("10-azure.conflist"), ["azure-vnet"]);
        assert_eq!(place.names(), ["10-azure.conflist"]);
    }
    for known in ["0.3.0", "0.3.1", "1.1.0"] {
        place.put("10-azure.conflist", &FLANNEL.replace("0.3.1", known));
        place.follow().unwrap();
        assert_eq!(place.types("10-azure.conflist"), ["flannel", "portmap", "wireloom"]);
    }
}

#[test]
fn ours_that_somebody_else_put_in_is_taken_out_in_the_end() {
    let mut place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    place.follow().unwrap();
    let both = place.text("10-flannel.conflist");
    // Its owner writes what it read, under another name.
    place.put("05-flannel.conflist", &both);
    fs::remove_file(place.folder.path().join("10-flannel.conflist")).unwrap();
    assert_eq!(place.follow().unwrap(), None);
    place.leave();
    assert_eq!(place.types("05-flannel.conflist"), ["flannel", "portmap"]);
    assert_eq!(place.names(), ["05-flannel.conflist"]);
}

#[test]
fn what_its_owner_writes_while_ours_is_put_in_is_not_lost() {
    let mut place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    // It has the file open, and writes when ours stands in its place already.
    let path = place.folder.path().join("10-flannel.conflist");
    let mut owners = fs::OpenOptions::new().write(true).open(path).unwrap();
    place.follow().unwrap();
    owners.set_len(0).unwrap();
    let newer = FLANNEL.replace("portmap", "bandwidth");
    let (half, rest) = newer.split_at(20);
    owners.write_all(half.as_bytes()).unwrap();
    assert_eq!(place.follow().unwrap(), None);
    owners.write_all(rest.as_bytes()).unwrap();
    assert!(place.follow().unwrap().is_some());
    assert_eq!(place.types("10-flannel.conflist"), ["flannel", "bandwidth", "wireloom"]);
    place.leave();
    assert_eq!(place.text("10-flannel.conflist"), newer);
}

#[test]
fn a_file_that_was_read_is_told_from_one_that_came_after() {
    let place = Place::new();
    place.put("10-flannel.conflist", FLANNEL);
    let path = place.folder.path().join("10-flannel.conflist");
    let read = File::open(&path).unwrap();
    assert!(is_at(&read, &path));
    place.put("new", FLANNEL);
    fs::rename(place.folder.path().join("new"), &path).unwrap();
    assert!(!is_at(&read, &path));
    fs::remove_file(&path).unwrap();
    assert!(!is_at(&read, &path));
}

#[test]
fn a_symbolic_link_is_left_alone() {
    let mut place = Place::new();
    place.put("flannel.json.txt", FLANNEL);
    let link = place.folder.path().join("10-flannel.conflist");
    std::os::unix::fs::symlink("flannel.json.txt", &link).unwrap();
    let error = place.follow().unwrap_err().to_string();
    assert!(error.contains("10-flannel.conflist is a symbolic link"), "{error}");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(place.text("flannel.json.txt"), FLANNEL);
}

#[test]
fn an_owner_that_takes_ours_out_again_and_again_is_named_and_left_alone_for_a_while() {
    let mut place = Place::new();
    let now = Instant::now();
    for _ in 0..MOST {
        place.put("05-cilium.conflist", FLANNEL);
        assert!(place.chain.follow(now).unwrap().is_some());
    }
    assert_eq!(place.chain.follow(now).unwrap(), None, "it stays in if it may");
    place.put("05-cilium.conflist", FLANNEL);
    let error = place.chain.follow(now).unwrap_err();
    assert!(error.to_string().contains("05-cilium.conflist: its owner takes ours out"), "{error}");
    assert_eq!(place.text("05-cilium.conflist"), FLANNEL);
    let later = now + std::time::Duration::from_secs(600);
    assert!(place.chain.follow(later).unwrap().is_some());
}

#[test]
fn one_list_that_cannot_be_put_back_does_not_keep_the_others() {
    let mut place = Place::new();
    for name in ["10-a.conflist", "05-b.conflist"] {
        place.put(name, FLANNEL);
        place.follow().unwrap();
    }
    // The first of them was put back when another came first; so this one is as if it had not been.
    place.put(".10-a.conflist.before-wireloom", FLANNEL);
    fs::remove_file(place.folder.path().join("10-a.conflist")).unwrap();
    fs::create_dir(place.folder.path().join("10-a.conflist")).unwrap();
    let mut left = place.chain.leave();
    left.sort_by_key(|(_, outcome)| outcome.is_ok());
    assert_eq!(left.len(), 2);
    assert!(left[0].0.ends_with("10-a.conflist") && left[0].1.is_err());
    assert!(left[1].1.is_ok());
    assert_eq!(place.text("05-b.conflist"), FLANNEL);
}
