use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use tempfile::TempDir;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn unused() -> [u8; 32] {
    panic!("a key is there already")
}

/// A key file with this text and mode.
fn key_file(directory: &TempDir, text: &str, mode: u32) -> PathBuf {
    let path = directory.path().join("key");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_missing_key_is_made_for_its_owner_alone() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a/b/key");
    let key = load_or_create(&path, || [7; 32]).unwrap();
    assert_eq!(key.as_bytes(), PrivateKey::from_random([7; 32]).as_bytes());
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", *key.to_text()));
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    let names =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<Vec<_>>(), ["key"], "nothing temporary is left");
}

#[test]
fn a_second_start_leaves_the_file_as_it_is() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    let made = load_or_create(&path, || [7; 32]).unwrap();
    let stamp = |path| {
        let metadata = fs::metadata(path).unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec())
    };
    let before = stamp(&path);
    let read = load_or_create(&path, unused).unwrap();
    assert_eq!(read.as_bytes(), made.as_bytes());
    assert_eq!(stamp(&path), before);
}

#[test]
fn what_is_no_key_is_never_overwritten() {
    let directory = TempDir::new().unwrap();
    for text in ["", "\n", "not a key", &"A".repeat(100_000)] {
        let path = key_file(&directory, text, 0o600);
        let error = load_or_create(&path, unused).unwrap_err();
        assert!(matches!(error, KeyFileError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    let error = load_or_create(directory.path(), unused).unwrap_err();
    assert!(matches!(error, KeyFileError::Read { .. }), "{error}");
}

#[test]
fn a_key_that_others_can_read_is_refused_with_the_way_out() {
    let directory = TempDir::new().unwrap();
    let text = PrivateKey::from_random([7; 32]).to_text();
    for open in [0o640, 0o604, 0o620, 0o666] {
        let path = key_file(&directory, &text, open);
        let error = load_or_create(&path, unused).unwrap_err();
        assert!(matches!(error, KeyFileError::Exposed { mode, .. } if mode == open), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
        assert!(!error.to_string().contains(text.as_str()), "{error}");
    }
    for closed in [0o600, 0o400] {
        load_or_create(&key_file(&directory, &text, closed), unused).unwrap();
    }
}

#[test]
fn a_key_that_appears_meanwhile_wins() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("key");
    let theirs = PrivateKey::from_random([9; 32]);
    let key = load_or_create(&path, || {
        key_file(&directory, &theirs.to_text(), 0o600);
        [7; 32]
    });
    assert_eq!(key.unwrap().as_bytes(), theirs.as_bytes());
}

#[test]
fn a_place_that_cannot_hold_a_key_is_named() {
    let directory = TempDir::new().unwrap();
    let file = key_file(&directory, "", 0o600);
    let error = load_or_create(&file.join("key"), || [7; 32]).unwrap_err();
    assert!(error.to_string().contains("key/key"), "{error}");
}
