//! The command line as a whole.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::logging::{LogFormat, Said};
#[cfg(feature = "kubernetes")]
use crate::{agent, connect, webhook};
use crate::{
    check, cleanup, cni, completion, demo, doctor, down, graph, keys, logging, output, showconf,
    status, tunnel, up,
};

/// One network out of machines in any cloud or cupboard: a userspace WireGuard mesh.
#[derive(Debug, Parser)]
#[command(name = "wireloom", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// What is logged to standard error: error, warn, info, debug, or a filter such as `wireloom_agent=debug`. Default:
    /// info.
    #[arg(long, global = true, env = "WIRELOOM_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// How log lines look. Default: text.
    #[arg(long, global = true, env = "WIRELOOM_LOG_FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a userspace WireGuard device that wg and wg-quick drive.
    Tunnel(tunnel::TunnelArgs),
    /// Join the mesh that a file describes, and stay in it until stopped.
    Up(up::UpArgs),
    /// Join the mesh that a Kubernetes cluster makes, and stay in it until stopped.
    #[cfg(feature = "kubernetes")]
    Agent(Box<agent::AgentArgs>),
    /// Join the mesh of a Kubernetes cluster from outside, as a Peer of it, until stopped.
    #[cfg(feature = "kubernetes")]
    Connect(Box<connect::ConnectArgs>),
    /// Judge Peers before a cluster takes them: an admission webhook.
    #[cfg(feature = "kubernetes")]
    Webhook(webhook::WebhookArgs),
    /// Leave the mesh: stop the agent of this machine, which cleans up after itself.
    Down(down::DownArgs),
    /// Print a new private key.
    Keygen,
    /// Read a private key from standard input and print its public key.
    Pubkey,
    /// Show what this node does and sees.
    Status(status::StatusArgs),
    /// Draw the mesh.
    Graph(graph::GraphArgs),
    /// Show a WireGuard configuration for a device that no agent drives: a peer's, or another mesh's.
    Showconf(showconf::ShowconfArgs),
    /// Check a mesh file and say everything that is wrong with it.
    Check(check::CheckArgs),
    /// Look for what stands in the way of the mesh on this machine, and say what to do about it.
    Doctor(Box<doctor::DoctorArgs>),
    /// Remove what an agent that did not end by itself left on this machine, or what Kilo left.
    Cleanup(cleanup::CleanupArgs),
    /// Answer a container runtime as its CNI plugin, as when it calls this program by itself.
    Cni,
    /// Build a mesh of four regions on this machine, in network namespaces, and show that it works.
    Demo(demo::DemoArgs),
    /// Print the completion script of a shell.
    Completion(completion::CompletionArgs),
    /// Print the version and nothing else, as `kg version` does.
    Version,
}

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if cni::is_called(arguments.len()) {
        return cni::run();
    }
    let quick = std::env::var_os("WG_QUICK_USERSPACE_IMPLEMENTATION");
    let is_kilos = matches!(called(&arguments), Some(name) if name == "kg" || name == "kgctl");
    let cli = Cli::try_parse_from(as_called(arguments, quick.as_deref()));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) if is_kilos && error.use_stderr() => {
            error.print()?;
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => error.exit(),
    };
    logging::start(&cli.global, cli.command.logging()?)?;
    match cli.command {
        Command::Tunnel(args) => tunnel::run(args),
        Command::Up(args) => up::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Agent(args) => agent::run(&args),
        #[cfg(feature = "kubernetes")]
        Command::Connect(args) => connect::run(*args),
        #[cfg(feature = "kubernetes")]
        Command::Webhook(args) => webhook::run(&args),
        Command::Down(args) => down::run(&args),
        Command::Keygen => keys::keygen(),
        Command::Pubkey => keys::pubkey(),
        Command::Status(args) => status::run(&args),
        Command::Graph(args) => graph::run(&args),
        Command::Showconf(args) => showconf::run(args),
        Command::Check(args) => check::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
        Command::Cni => cni::run(),
        Command::Demo(args) => demo::run(args),
        Command::Completion(args) => completion::run(&args),
        Command::Version => {
            output::line(env!("CARGO_PKG_VERSION"))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Command {
    /// What is said of logging where a command has words of its own for it.
    fn logging(&self) -> anyhow::Result<Said> {
        match self {
            #[cfg(feature = "kubernetes")]
            Self::Agent(args) => args.logging(),
            #[cfg(feature = "kubernetes")]
            Self::Connect(args) => Ok(args.logging()),
            _ => Ok(Said::default()),
        }
    }
}

/// wg-quick runs its userspace implementation as `PROGRAM INTERFACE`, with no room for a subcommand. So `tunnel` is
/// put in when this program was named to wg-quick, or is called by a link named `wireloom-tunnel`.
///
/// Kilo's manifests run `kg` with the flags of its agent, and `kg webhook`. So `agent` is put in when this program is
/// called by a link of that name; and `kg --version` prints what `kg version` does. Likewise [`kgctl`](as_kgctl).
fn as_called(mut arguments: Vec<OsString>, quick: Option<&OsStr>) -> Vec<OsString> {
    let program = called(&arguments);
    if program == Some(OsStr::new("kgctl")) {
        return as_kgctl(arguments);
    }
    let by_link = program == Some(OsStr::new("wireloom-tunnel"));
    let by_quick = arguments.len() == 2
        && program.is_some()
        && quick.map(Path::new).and_then(Path::file_name) == program
        && !is_own_word(&arguments[1]);
    let by_kilo = program == Some(OsStr::new("kg"))
        && arguments.get(1).is_none_or(|first| {
            let text = first.to_string_lossy();
            text.starts_with('-') && !matches!(&*text, "-h" | "--help" | "-V" | "--version")
        });
    if program == Some(OsStr::new("kg"))
        && arguments.get(1).is_some_and(|first| first == "--version")
    {
        arguments[1] = OsString::from("version");
    }
    let command = match (by_link || by_quick, by_kilo) {
        (true, _) => Some("tunnel"),
        (_, true) => Some("agent"),
        _ => None,
    };
    if let Some(command) = command {
        arguments.insert(1, OsString::from(command));
    }
    arguments
}

/// The name that this program is called by.
fn called(arguments: &[OsString]) -> Option<&OsStr> {
    arguments.first().map(Path::new).and_then(Path::file_name)
}

/// Kilo's scripts run `kgctl`, whose flags may stand before its verb, which knows clusters alone, and which draws in one way.
fn as_kgctl(mut arguments: Vec<OsString>) -> Vec<OsString> {
    const WITH_A_VALUE: [&str; 5] =
        ["--backend", "--kubeconfig", "--mesh-granularity", "--port", "--topology-label"];
    let verb = arguments.windows(2).position(|pair| {
        let is_value = WITH_A_VALUE.iter().any(|flag| pair[0] == *flag);
        !is_value && !pair[1].to_string_lossy().starts_with('-')
    });
    let Some(before) = verb else { return arguments };
    let verb = arguments.remove(before + 1);
    let flags: &[&str] = match verb.to_str() {
        Some("graph") => &["--kubernetes", "--format=kgctl"],
        Some("showconf") => &["--kubernetes"],
        _ => &[],
    };
    arguments.splice(1..1, std::iter::once(verb).chain(flags.iter().map(OsString::from)));
    arguments
}

fn is_own_word(argument: &OsStr) -> bool {
    use clap::CommandFactory as _;
    let option = argument.to_string_lossy().starts_with('-');
    option || Cli::command().get_subcommands().any(|command| argument == command.get_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_called_text(arguments: &[&str], quick: Option<&str>) -> String {
        let arguments = arguments.iter().map(OsString::from).collect();
        as_called(arguments, quick.map(OsStr::new)).join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn wg_quick_gets_a_tunnel() {
        assert_eq!(as_called_text(&["wireloom-tunnel", "wg0"], None), "wireloom-tunnel tunnel wg0");
        assert_eq!(
            as_called_text(&["wireloom-tunnel", "-f", "wg0"], None),
            "wireloom-tunnel tunnel -f wg0"
        );
        assert_eq!(
            as_called_text(&["/usr/bin/wireloom", "wg0"], Some("wireloom")),
            "/usr/bin/wireloom tunnel wg0"
        );
        assert_eq!(as_called_text(&["wireloom", "wg0"], None), "wireloom wg0");
        assert_eq!(as_called_text(&["wireloom", "status"], Some("wireloom")), "wireloom status");
        assert_eq!(as_called_text(&["wireloom", "wg0"], Some("wireguard-go")), "wireloom wg0");
    }

    #[test]
    fn manifests_of_kilo_get_an_agent() {
        assert_eq!(
            as_called_text(&["/opt/bin/kg", "--local=false"], None),
            "/opt/bin/kg agent --local=false"
        );
        assert_eq!(as_called_text(&["kg"], None), "kg agent");
        for line in [["kg", "webhook"], ["kg", "version"], ["kg", "--help"]] {
            assert_eq!(as_called_text(&line, None), line.join(" "));
        }
        assert_eq!(as_called_text(&["kg", "--version"], None), "kg version");
        assert_eq!(as_called_text(&["wireloom", "--version"], None), "wireloom --version");
    }

    #[test]
    fn scripts_of_kilo_get_kgctls_verbs() {
        for (said, meant) in [
            ("kgctl graph", "kgctl graph --kubernetes --format=kgctl"),
            (
                "/usr/bin/kgctl --kubeconfig graph --port=51821 showconf node a --as-peer",
                "/usr/bin/kgctl showconf --kubernetes --kubeconfig graph --port=51821 node a --as-peer",
            ),
            (
                "kgctl --topology-label l connect laptop -a 10.5.0.1/32",
                "kgctl connect --topology-label l laptop -a 10.5.0.1/32",
            ),
            ("kgctl --version", "kgctl --version"),
            ("kgctl", "kgctl"),
            ("wireloom graph", "wireloom graph"),
        ] {
            let said: Vec<&str> = said.split(' ').collect();
            let arguments = as_called(said.iter().map(OsString::from).collect(), None);
            assert_eq!(arguments.join(OsStr::new(" ")), meant);
            let parsed = Cli::try_parse_from(arguments);
            let is_verb = said.len() > 1 && said[1] != "--version";
            assert_eq!(parsed.is_ok(), is_verb, "{said:?}");
        }
    }
}
