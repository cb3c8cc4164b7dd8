use clap::{CommandFactory as _, Parser};

use wireloom_agent::pods::List;
use wireloom_model::annotations::Granularity;
use wireloom_model::{EncapsulateBy, EncapsulateWhen, GatewayCount};

use super::*;
use crate::logging::LogFormat;
use crate::opener::DeviceKind;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: SettingsArgs,
}

fn flags(line: &str) -> Settings {
    let words = std::iter::once("agent").chain(line.split_whitespace());
    Line::try_parse_from(words).unwrap().args.settings
}

#[test]
fn kilos_defaults_are_ours() {
    let resolved = flags("--hostname n1").resolve().unwrap();
    assert_eq!(resolved.node.as_str(), "n1");
    assert_eq!(resolved.topology_label, "topology.kubernetes.io/region");
    assert_eq!(resolved.granularity, Granularity::Location);
    assert_eq!(resolved.mesh.gateways, GatewayCount::AtMost(std::num::NonZeroU32::MIN));
    assert_eq!(resolved.mesh.port.get(), 51820);
    assert_eq!(resolved.mesh.encapsulation.when, EncapsulateWhen::Always);
    let ranges: Vec<String> = resolved.mesh.overlay.ranges().map(|r| r.to_string()).collect();
    assert_eq!((ranges, resolved.mesh.mtu), (vec!["10.4.0.0/16".to_owned()], None));
}

#[test]
fn flags_beat_the_file_and_the_file_beats_defaults() {
    let file = parse(
        "hostname = \"of-file\"\nport = 4500\nmtu = 1400\ngateways = 3\n\
         subnet = [\"10.9.0.0/16\", \"fd09::/64\"]\nprioritise-private-addresses = true\n\
         mesh-granularity = \"full\"\nencapsulate = \"crosssubnet\"\n",
    )
    .unwrap();
    let line = "--port 1 --encapsulate never --prioritise-private-addresses=false";
    let resolved = flags(line).or(file).resolve().unwrap();
    assert_eq!(resolved.node.as_str(), "of-file");
    assert_eq!((resolved.mesh.port.get(), resolved.addresses.port.get()), (1, 1));
    assert_eq!(resolved.mesh.mtu.unwrap().get(), 1400);
    assert_eq!(resolved.mesh.gateways.to_string(), "3");
    assert_eq!(resolved.mesh.overlay.ranges().count(), 2);
    assert_eq!(resolved.mesh.encapsulation.when, EncapsulateWhen::Never);
    assert!(!resolved.addresses.prefer_internal);
    assert_eq!(resolved.granularity, Granularity::Full);
}

#[test]
fn a_full_mesh_is_one_of_gateways() {
    let mesh = |line| flags(line).resolve().unwrap().mesh;
    assert_eq!(mesh("--hostname a --mesh-granularity full").gateways, GatewayCount::All);
    assert_eq!(mesh("--hostname a --mesh-granularity full --gateways 2").gateways.to_string(), "2");
}

#[test]
fn pods_have_their_network_from_here_or_from_the_plugin_beside() {
    let resolved = |line: &str| flags(&format!("--hostname a {line}")).resolve().unwrap();
    let pods = resolved("--run-dir /r").pods;
    assert_eq!(pods.list, List::Ours);
    assert_eq!(pods.file.to_str(), Some("/etc/cni/net.d/10-wireloom.conflist"));
    assert_eq!(pods.directories.run.to_str(), Some("/r"));
    assert!(resolved("").mesh.filter.masquerade);
    for other in ["--cni=false", "--compatibility flannel", "--compatibility cilium"] {
        let resolved = resolved(other);
        assert_eq!(
            (resolved.pods.list, resolved.mesh.filter.masquerade),
            (List::Nobodys, false),
            "{other}"
        );
    }
    let is_left = |flags: &str| resolved(flags).planner.beside_another;
    assert!(is_left("--compatibility flannel") && is_left("--local=false"));
    assert!(!is_left("") && !is_left("--compatibility cilium --local"));
    let chained = resolved("--compatibility flannel --cni-chain");
    assert_eq!(chained.pods.list, List::Anothers);
    assert!(!chained.mesh.filter.masquerade, "that is up to the other plugin");
    assert!(flags("--hostname a --cni --cni-chain").resolve().is_err());
    let kilo = resolved("--compatibility kilo --cni-path /x --cni-bin /y --masquerade=false");
    assert_eq!(kilo.pods.programs.to_str(), Some("/y"));
    assert!(!kilo.mesh.filter.masquerade && kilo.planner.compatibility.unwrap().cni);
}

#[test]
fn packets_inside_a_location_are_wrapped_as_kilos_agents_do_beside_them_and_after() {
    let by = |line: &str| {
        let resolved = flags(&format!("--hostname a {line}")).resolve().unwrap();
        resolved.mesh.encapsulation.by
    };
    assert_eq!(by(""), EncapsulateBy::Vxlan);
    assert_eq!(by("--compatibility kilo"), EncapsulateBy::Ipip);
    assert_eq!(by("--compatibility kilo --encapsulation vxlan"), EncapsulateBy::Vxlan);
    assert_eq!(by("--compatibility flannel"), EncapsulateBy::Vxlan);
}

#[test]
fn lists_are_repeated_or_have_commas() {
    let repeated = flags("--internal-cidr 10.0.0.0/8 --internal-cidr fd00::/8");
    assert_eq!(repeated, flags("--internal-cidr 10.0.0.0/8,fd00::/8"));
}

#[test]
fn every_setting_is_a_flag_a_variable_and_a_key_of_the_file() {
    let mut command = crate::cli::Cli::command();
    command.build();
    let agent = command.find_subcommand("agent").unwrap();
    assert!(agent.get_positionals().next().is_none());
    // The file can't name itself.
    let of_no_file = |name: &str| ["config", "help"].contains(&name);
    let names = agent.get_arguments().map(|argument| (argument.get_long().unwrap(), argument));
    for (name, argument) in names.filter(|(name, _)| !of_no_file(name)) {
        let variable = format!("WIRELOOM_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env().unwrap().to_str(), Some(variable.as_str()));
        // A value of the wrong kind is refused as such; an unknown key would not be read at all.
        let error = parse(&format!("{name} = {{}}")).unwrap_err();
        assert!(!format!("{error:#}").contains("no setting"), "{name}");
    }
}

#[test]
fn a_file_says_how_packets_are_carried_and_what_is_logged() {
    let text = "engine = \"boringtun\"\nqueues = 3\nlog = \"wireloom_agent=debug\"\nlog-format = \"json\"\n";
    let carrier = |line: &str| flags(line).or(parse(text).unwrap()).resolve().unwrap().carrier;
    let said = carrier("--hostname a");
    assert_eq!((said.engine.label(), said.queues.to_string().as_str()), ("boringtun", "3"));
    assert_eq!(carrier("--hostname a --queues auto").queues.to_string(), "auto");
    assert!(parse("queues = 0").is_err() && parse("engine = \"none\"").is_err());

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, text).unwrap();
    let said = |line: &str| {
        let args = SettingsArgs { config: Some(file.clone()), settings: flags(line) };
        args.logging().unwrap()
    };
    assert_eq!(said("").filter.as_deref(), Some("wireloom_agent=debug"));
    assert_eq!(said("").format, Some(LogFormat::Json));
    assert_eq!(said("--log-level warn").filter, None, "a flag beats the file");
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    let error = parse("topology-labels = \"x\"").unwrap_err().to_string();
    assert!(
        error.contains("\"topology-labels\"") && error.contains("\"topology-label\""),
        "{error}"
    );
    assert!(format!("{:#}", parse("port = 0").unwrap_err()).contains("port"));
    assert!(parse("mtu = 100").is_err());
}

#[test]
fn flags_of_kilos_manifests_are_taken_and_those_without_effect_are_named() {
    // What Kilo's manifests for flannel, for Cilium and for a device of another container pass.
    let resolved = |line: &str| flags(&format!("--hostname n1 {line}")).resolve().unwrap();
    let flannel = "--backend=kubernetes --cni=false --compatibility=flannel --local=false --resync-period=30s \
                   --internal-cidr=10.0.0.5/32 --log-level=debug --topology-label=region";
    let flannel = resolved(flannel);
    assert_eq!((flannel.resync.as_secs(), flannel.warnings.len()), (30, 0));
    assert_eq!((flannel.clean_up, flannel.device), (true, DeviceKind::Own));
    let cilium =
        resolved("--compatibility=cilium --encapsulate=crosssubnet --clean-up-interface=true");
    assert!(cilium.warnings.is_empty());
    let other = resolved("--create-interface=false --interface=kilo0 --clean-up=false");
    assert_eq!((other.device, other.clean_up), (DeviceKind::Uapi, false));

    assert!(!other.mesh.filter.forward_accept);
    let through = resolved("--iptables-forward-rules --clean-up-interface=false");
    assert!(through.mesh.filter.forward_accept);
    assert!(through.warnings[0].contains("--clean-up-interface=false"));
    assert!(flags("--hostname a --create-interface=false --device own").resolve().is_err());
    for bad in ["--backend=etcd", "--resync-period=0s", "--log-level=loud"] {
        assert!(Line::try_parse_from(["agent", bad]).is_err(), "{bad}");
    }
}
