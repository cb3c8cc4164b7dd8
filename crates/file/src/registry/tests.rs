use std::fs::{self, File};
use std::future::Future;
use std::io::Write as _;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::*;

/// Longer than any update may take, on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(30);
const KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

/// A mesh file in a directory of its own, and what follows it.
struct Scene {
    directory: TempDir,
    registry: FileRegistry,
}

impl Scene {
    /// Follows a mesh of node `a`, and has read it.
    async fn begin() -> Self {
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("mesh.toml"), mesh(&["a"])).unwrap();
        let registry = FileRegistry::open(&directory.path().join("mesh.toml"));
        let mut scene = Self { directory, registry };
        assert_eq!(scene.nodes().await, ["a"]);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    async fn next(&mut self) -> Update {
        soon(self.registry.next()).await.expect("a file registry does not end")
    }

    async fn snapshot(&mut self) -> Arc<Snapshot> {
        match self.next().await {
            Update::Mesh(snapshot) => snapshot,
            Update::Stale(reason) => panic!("stale: {reason}"),
        }
    }

    /// The names of the next mesh's nodes.
    async fn nodes(&mut self) -> Vec<String> {
        self.snapshot().await.nodes.iter().map(|node| node.name.to_string()).collect()
    }

    async fn stale(&mut self) -> String {
        match self.next().await {
            Update::Stale(reason) => reason,
            Update::Mesh(snapshot) => panic!("a mesh: {snapshot:?}"),
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing came in time")
}

fn mesh(nodes: &[&str]) -> String {
    let entry = |name: &&str| format!("[[node]]\nname = \"{name}\"\npublic-key = \"{KEY}\"\n");
    nodes.iter().map(entry).collect()
}

#[tokio::test]
async fn a_rename_over_the_file_is_a_new_mesh() {
    let mut scene = Scene::begin().await;
    scene.write(".mesh.toml.swp", &mesh(&["a", "b"]));
    fs::rename(scene.path(".mesh.toml.swp"), scene.path("mesh.toml")).unwrap();
    assert_eq!(scene.nodes().await, ["a", "b"]);
}

#[tokio::test]
async fn a_file_is_read_once_its_writer_has_finished() {
    let mut scene = Scene::begin().await;
    let mut file = File::create(scene.path("mesh.toml")).unwrap();
    let (first, second) = (mesh(&["a", "b"]), mesh(&["c"]));
    // The writer stops in the middle for less than the file must lie still.
    file.write_all(first.as_bytes()).unwrap();
    let unfinished = tokio::time::timeout(QUIET / 2, scene.registry.next()).await;
    assert!(unfinished.is_err(), "{unfinished:?}");
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    assert_eq!(scene.nodes().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_deleted_file_is_stale_until_it_is_back() {
    let mut scene = Scene::begin().await;
    fs::remove_file(scene.path("mesh.toml")).unwrap();
    let reason = scene.stale().await;
    assert!(reason.contains("mesh.toml can't be read: No such file"), "{reason}");
    // The same mesh as before: told again all the same, since the trouble is over.
    scene.write("mesh.toml", &mesh(&["a"]));
    assert_eq!(scene.nodes().await, ["a"]);
}

#[tokio::test]
async fn a_bad_file_is_stale_with_its_line_and_the_next_good_one_counts() {
    let mut scene = Scene::begin().await;
    scene.write("mesh.toml", "[mesh]\nport = 70000\n");
    let reason = scene.stale().await;
    assert!(reason.contains("mesh.toml line 2, column 8: port"), "{reason}");
    scene.write("mesh.toml", &mesh(&["a", "b"]));
    assert_eq!(scene.nodes().await, ["a", "b"]);
}

#[tokio::test]
async fn an_emptied_file_removes_nobody() {
    let mut scene = Scene::begin().await;
    scene.write("mesh.toml", "");
    assert!(scene.stale().await.contains("lists no [[node]]"));
}

#[tokio::test]
async fn the_same_mesh_in_other_words_yields_nothing() {
    let mut scene = Scene::begin().await;
    for (text, is_new) in [
        (format!("# A comment.\n{}", mesh(&["a"])), false),
        (mesh(&["a", "b"]), true),
        (mesh(&["a", "b"]).replace(" = ", "="), false),
    ] {
        scene.write("mesh.toml", &text);
        let read = soon(scene.registry.read_when_due()).await.unwrap();
        assert_eq!(scene.registry.judge(read).is_some(), is_new, "{text}");
    }
}

#[tokio::test]
async fn reading_the_file_is_no_change_of_it() {
    let mut scene = Scene::begin().await;
    let again = tokio::time::timeout(QUIET * 3, scene.registry.read_when_due()).await;
    assert!(again.is_err(), "{again:?}");
}

#[tokio::test]
async fn the_first_update_may_be_that_there_is_no_file() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("not-yet/mesh.toml");
    let mut scene = Scene { registry: FileRegistry::open(&path), directory };
    scene.stale().await;
    // Nothing watches a directory that was not there: glances find the file.
    fs::create_dir(scene.path("not-yet")).unwrap();
    scene.write("not-yet/mesh.toml", &mesh(&["a"]));
    assert_eq!(scene.nodes().await, ["a"]);
}

#[tokio::test]
async fn without_a_watch_glances_find_changes() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("mesh.toml");
    fs::write(&path, mesh(&["a"])).unwrap();
    let registry = FileRegistry::new(path, Arc::default(), None);
    let mut scene = Scene { directory, registry };
    assert_eq!(scene.nodes().await, ["a"]);
    scene.write("mesh.toml", &mesh(&["a", "b"]));
    assert_eq!(scene.nodes().await, ["a", "b"]);
}

#[tokio::test]
async fn a_config_maps_swap_is_a_new_mesh() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let version = |name: &str, nodes: &[&str]| {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("mesh.toml"), mesh(nodes)).unwrap();
    };
    version("..1", &["a"]);
    symlink("..1", at("..data")).unwrap();
    symlink("..data/mesh.toml", at("mesh.toml")).unwrap();
    let mut scene = Scene { registry: FileRegistry::open(&at("mesh.toml")), directory };
    assert_eq!(scene.nodes().await, ["a"]);

    let at = |name: &str| scene.directory.path().join(name);
    fs::create_dir(at("..2")).unwrap();
    fs::write(at("..2/mesh.toml"), mesh(&["a", "b"])).unwrap();
    symlink("..2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    fs::remove_dir_all(at("..1")).unwrap();
    assert_eq!(scene.nodes().await, ["a", "b"]);
}

#[tokio::test]
async fn an_entry_that_turns_bad_keeps_its_last_good_form() {
    let mut scene = Scene::begin().await;
    let before = scene.registry.last_good.clone().unwrap();
    scene.write(
        "mesh.toml",
        &format!("{}keepalive = 70000\ncolour = 1\n{}", mesh(&["a"]), mesh(&["b"])),
    );
    let snapshot = scene.snapshot().await;
    let a = snapshot.nodes.iter().filter(|node| node.name.as_str() == "a").collect::<Vec<_>>();
    assert_eq!(a, [&before.nodes[0]]);
    assert_eq!(snapshot.nodes.len(), 2);
    assert_eq!(snapshot.problems.len(), 2);
    for problem in &snapshot.problems {
        assert!(problem.message.ends_with("stays in force"), "{problem}");
    }
    // A new entry that is bad from the start has no such form, and one that is gone is gone.
    scene.write("mesh.toml", &format!("{}{}colour = 1\n", mesh(&["b"]), mesh(&["c"])));
    let snapshot = scene.snapshot().await;
    assert_eq!(snapshot.nodes.len(), 1);
    assert!(!snapshot.problems[0].message.contains("in force"));
}

#[tokio::test]
async fn a_dropped_wait_loses_no_change() {
    let mut scene = Scene::begin().await;
    scene.write("mesh.toml", &mesh(&["a", "b"]));
    let update = soon(async {
        loop {
            // Dropped again and again, as in an agent's select! loop.
            let wait = scene.registry.next();
            if let Ok(update) = tokio::time::timeout(Duration::from_millis(1), wait).await {
                return update;
            }
        }
    });
    assert!(matches!(update.await, Some(Update::Mesh(snapshot)) if snapshot.nodes.len() == 2));
}

#[tokio::test]
async fn publishing_writes_nothing() {
    let mut scene = Scene::begin().await;
    let node = scene.registry.last_good.as_ref().unwrap().nodes[0].clone();
    let before = Stamp::of(&scene.path("mesh.toml"));
    let publication = Publication {
        node: node.name,
        key: node.key,
        held: node.held,
        discovered_endpoints: node.discovered_endpoints,
    };
    scene.registry.publish(&publication).await;
    assert_eq!(Stamp::of(&scene.path("mesh.toml")), before);
    assert_eq!(fs::read_dir(scene.directory.path()).unwrap().count(), 1);
}
