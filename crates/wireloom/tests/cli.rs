//! The commands that need neither root nor a network.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as the test does")]

use assert_cmd::Command;
use serde_json::Value;

fn wireloom(args: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("wireloom"));
    command.args(args);
    command
}

fn stdout(mut command: Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

#[test]
fn pubkey_of_keygen_is_a_key_and_always_the_same() {
    let private = stdout(wireloom(&["keygen"]));
    assert_eq!(private.trim().len(), 44);
    assert_ne!(private, stdout(wireloom(&["keygen"])));
    let public = || {
        let mut pubkey = wireloom(&["pubkey"]);
        pubkey.write_stdin(private.clone());
        stdout(pubkey)
    };
    assert_eq!(public(), public());
    wireloom(&["pubkey"]).write_stdin("short\n").assert().failure();
}

#[test]
fn check_says_what_is_wrong_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    let path = file.to_str().unwrap();
    let key = |private: String| {
        let mut pubkey = wireloom(&["pubkey"]);
        pubkey.write_stdin(private);
        stdout(pubkey).trim().to_owned()
    };
    let key = key(stdout(wireloom(&["keygen"])));
    let good =
        format!("[[node]]\nname = \"a\"\npublic-key = \"{key}\"\nendpoint = \"192.0.2.1\"\n");

    std::fs::write(&file, &good).unwrap();
    assert!(stdout(wireloom(&["check", path])).contains("1 nodes, 0 peers, 0 problems"));

    std::fs::write(&file, format!("{good}[[node]]\nname = \"B\"\npublic-key = \"{key}\"\n"))
        .unwrap();
    let output =
        wireloom(&["check", path, "-o", "json"]).assert().code(1).get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&output).unwrap();
    assert_eq!(report["usable"], true);
    let problem = report["problems"][0].to_string();
    assert!(problem.contains("line 6") && problem.contains("\\\"B\\\""), "{problem}");

    std::fs::write(&file, "nodes = 1\n").unwrap();
    let error = wireloom(&["check", path]).assert().code(1).get_output().stderr.clone();
    assert!(String::from_utf8_lossy(&error).contains("line 1"), "{error:?}");
}

#[test]
fn pinning_keeps_every_address_when_nodes_come() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    let path = file.to_str().unwrap();
    let node = |name: &str| {
        let mut pubkey = wireloom(&["pubkey"]);
        pubkey.write_stdin(stdout(wireloom(&["keygen"])));
        format!(
            "# {name}\n[[node]]\nname = \"{name}\"\npublic-key = \"{}\"\nendpoint = \"192.0.2.1\"\n",
            stdout(pubkey).trim()
        )
    };
    std::fs::write(&file, node("a")).unwrap();
    let addresses = || {
        let report: Value =
            serde_json::from_str(&stdout(wireloom(&["check", path, "--pin", "-o", "json"])))
                .unwrap();
        report["nodes"][0]["overlay_addresses"].clone()
    };
    let before = addresses();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# a\n") && text.contains("overlay-addresses"), "{text}");
    assert!(text.contains(before[0].as_str().unwrap()), "{text}");
    assert_eq!(addresses(), before);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn the_graph_of_a_file_is_drawn_without_other_programs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    let mut pubkey = wireloom(&["pubkey"]);
    pubkey.write_stdin(stdout(wireloom(&["keygen"])));
    let key = stdout(pubkey);
    std::fs::write(&file, format!("[[node]]\nname = \"a\"\npublic-key = \"{}\"\n", key.trim()))
        .unwrap();
    let path = file.to_str().unwrap();
    let svg = {
        let mut graph = wireloom(&["graph", "-c", path, "--format", "svg"]);
        graph.env_clear();
        stdout(graph)
    };
    assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    let json: Value =
        serde_json::from_str(&stdout(wireloom(&["graph", "-c", path, "-o", "json"]))).unwrap();
    assert!(json.is_object());
}

#[test]
fn what_only_kgctls_as_peer_takes_is_passed_over_as_kgctl_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.toml");
    let path = file.to_str().unwrap();
    let key = || {
        let mut pubkey = wireloom(&["pubkey"]);
        pubkey.write_stdin(stdout(wireloom(&["keygen"])));
        stdout(pubkey).trim().to_owned()
    };
    let mut text = String::new();
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        let key = key();
        text += &format!(
            "[[node]]\nname = \"{name}\"\nlocation = \"{name}\"\npublic-key = \"{key}\"\nendpoint = \"192.0.2.{at}:51820\"\n\
             internal-addresses = [\"10.0.{at}.1/24\"]\nprefixes = [\"10.42.{at}.0/24\"]\n"
        );
    }
    let laptop = key();
    text += &format!(
        "[[peer]]\nname = \"laptop\"\npublic-key = \"{laptop}\"\nallowed-ips = [\"10.5.0.1/32\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let show = |more: &[&str]| {
        let mut args = vec!["showconf", "-c", path];
        args.extend(more);
        let shown = wireloom(&args).assert().success().get_output().clone();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(shown.stdout), text(shown.stderr))
    };
    for agents in [&[][..], &["--compatibility", "kilo"]] {
        let show = |more: &str| show(&[agents, &more.split(' ').collect::<Vec<_>>()].concat());
        let (plain, silence) = show("peer laptop");
        assert_eq!((plain.matches("[Peer]").count(), silence.as_str()), (2, ""), "{plain}");
        let (with_services, _) = show("peer laptop --allowed-ips 10.43.0.0/16");
        assert_eq!(with_services.matches("10.43.0.0/16").count(), 1, "{with_services}");
        assert_eq!(with_services.replace(", 10.43.0.0/16", ""), plain);
        for form in ["json", "yaml"] {
            let (text, said) = show(&format!("peer laptop -o {form}"));
            assert!(text == plain && said.contains("--as-peer"), "{text}{said}");
        }
        let (node, said) = show("node a --allowed-ips 10.43.0.0/16");
        assert!(!node.contains("10.43.0.0/16") && said.contains("--as-peer"), "{node}{said}");
        let (as_peer, _) = show("node a --as-peer --allowed-ips 10.43.0.0/16 -o json");
        assert!(as_peer.contains("10.43.0.0/16"), "{as_peer}");
    }
}

#[test]
fn a_link_named_kgctl_fails_as_kgctl_does() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("kgctl");
    std::os::unix::fs::symlink(assert_cmd::cargo::cargo_bin!("wireloom"), &link).unwrap();
    let nowhere = folder.path().join("kubeconfig");
    let nowhere = nowhere.to_str().unwrap();
    for line in [&["graph", "--nonsense"][..], &["--kubeconfig", nowhere, "graph"]] {
        let failed = Command::new(&link).args(line).assert().code(1).get_output().clone();
        assert!(failed.stdout.is_empty() && !failed.stderr.is_empty(), "{failed:?}");
    }
    Command::new(&link).args(["showconf", "--help"]).assert().success();
}

#[test]
fn every_shell_gets_a_completion() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(wireloom(&["completion", shell])).contains("keygen"), "{shell}");
    }
}

#[test]
fn without_an_agent_the_errors_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    for verb in ["status", "down", "graph"] {
        let error = wireloom(&[verb, "wlnone", "--run-dir", directory])
            .assert()
            .code(1)
            .get_output()
            .stderr
            .clone();
        assert!(String::from_utf8_lossy(&error).contains("wireloom up"), "{verb}: {error:?}");
    }
}
