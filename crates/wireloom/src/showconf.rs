//! `wireloom showconf`: WireGuard configurations for devices that no agent drives.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use wireloom_agent::showconf::{Ask, Shown, Whose};
use wireloom_file::key;
use wireloom_model::{Cidr, NodeName, PeerName};

use crate::output;
use crate::source::{Source, SourceArgs};

#[derive(Debug, Args)]
pub(crate) struct ShowconfArgs {
    #[command(subcommand)]
    whose: WhoseArg,
    #[command(flatten)]
    source: SourceArgs,
    /// Show it as a peer of a device elsewhere.
    #[arg(long, global = true)]
    as_peer: bool,
    /// More prefixes to be reached: through it, with --as-peer; or by a peer itself, through one of its tunnels.
    #[arg(long, global = true, value_delimiter = ',', value_name = "PREFIX")]
    allowed_ips: Vec<Cidr>,
    /// The form of the configuration; json and yaml are Kilo's Peer resource, and WireGuard's text without --as-peer.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Form,
    /// The file with the peer's private key, to put it and the peer's addresses into the configuration.
    #[arg(long, global = true, value_name = "FILE")]
    private_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum WhoseArg {
    /// The configuration of a node.
    Node {
        /// Its name.
        name: NodeName,
    },
    /// The configuration of a peer from outside.
    Peer {
        /// Its name.
        name: PeerName,
    },
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A `Peer` resource in JSON.
    Json,
    /// A code to be scanned by the WireGuard app of a phone.
    Qr,
    /// A WireGuard configuration.
    #[default]
    Wireguard,
    /// A `Peer` resource in YAML.
    Yaml,
}

impl ShowconfArgs {
    /// Says what has no meaning without --as-peer. kgctl passes over it without a word, and scripts go on as with it.
    fn warn(&self) {
        if self.as_peer {
            return;
        }
        if matches!(self.output, Form::Json | Form::Yaml) {
            eprintln!(
                "wireloom: json and yaml are for --as-peer; this is WireGuard's configuration"
            );
        }
        if matches!(self.whose, WhoseArg::Node { .. }) && !self.allowed_ips.is_empty() {
            eprintln!(
                "wireloom: --allowed-ips of a node is for --as-peer, and changes nothing here"
            );
        }
    }
}

pub(crate) fn run(args: ShowconfArgs) -> anyhow::Result<ExitCode> {
    args.warn();
    let whose = match args.whose {
        WhoseArg::Node { name } => Whose::Node(name),
        WhoseArg::Peer { name } => Whose::Peer(name),
    };
    let source = args.source.open()?;
    let interface = match (&args.private_key, &whose) {
        (None, _) => String::new(),
        (Some(file), Whose::Peer(_)) if !args.as_peer => interface(file, &*source, whose.clone())?,
        _ => bail!("--private-key is for the configuration of a peer"),
    };
    let ask = Ask { whose: whose.clone(), as_peer: args.as_peer, more: args.allowed_ips };
    match source.showconf(ask)? {
        Shown::NoGateway => {
            // A line on standard error and success, as scripts know it from kgctl.
            eprintln!("Node {:?} is not a leader node", name(&whose));
        }
        Shown::Conf(text) => print(&format!("{interface}{text}"), args.output)?,
        Shown::AsPeer(peer) => match args.output {
            Form::Json => output::json(&peer.resource(name(&whose)))?,
            Form::Yaml => {
                let yaml = serde_saphyr::to_string(&peer.resource(name(&whose)))?;
                output::line(yaml.trim_end())?;
            }
            form => print(&peer.text(), form)?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn name(whose: &Whose) -> &str {
    match whose {
        Whose::Node(name) => name.as_str(),
        Whose::Peer(name) => name.as_str(),
    }
}

/// The section with the peer's key and addresses, as wg-quick(8) and the apps of phones take it.
fn interface(file: &Path, source: &dyn Source, whose: Whose) -> anyhow::Result<String> {
    let private_key = key::load(file)?;
    let ask = Ask { whose, as_peer: true, more: Vec::new() };
    let Shown::AsPeer(own) = source.showconf(ask)? else { return Ok(String::new()) };
    if own.public_key != private_key.public_key() {
        bail!(
            "{}: its public key is {}, and the mesh has {} for the peer",
            file.display(),
            private_key.public_key(),
            own.public_key
        );
    }
    let addresses: Vec<String> = own.allowed_ips.iter().map(Cidr::to_string).collect();
    let key = private_key.to_text();
    Ok(format!(
        "[Interface]\nPrivateKey = {}\nAddress = {}\n\n",
        key.as_str(),
        addresses.join(", ")
    ))
}

fn print(text: &str, form: Form) -> anyhow::Result<()> {
    if form != Form::Qr {
        return output::line(text.trim_end());
    }
    let code = qrcode::QrCode::new(text)
        .context("the configuration is too long for a code: 2,900 characters are the most")?;
    output::line(&code.render::<qrcode::render::unicode::Dense1x2>().build())
}
