//! `wireloom down`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use wireloom_agent::control::{self, Request};
use wireloom_model::InterfaceName;

use crate::output::{self, Output, OutputArg};

#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    output: OutputArg,
}

/// Which running agent is meant.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The interface of the agent.
    #[arg(env = "WIRELOOM_INTERFACE", default_value = crate::up::DEFAULT_INTERFACE)]
    pub(crate) interface: InterfaceName,
    /// Where agents have their sockets.
    #[arg(long, env = "WIRELOOM_RUN_DIR", default_value = control::RUN_DIRECTORY, value_name = "DIR")]
    pub(crate) run_dir: PathBuf,
}

impl AgentArgs {
    pub(crate) fn socket(&self) -> PathBuf {
        control::socket_path(&self.run_dir, &self.interface)
    }

    /// Asks the agent and returns its answer.
    pub(crate) fn ask<T: serde::de::DeserializeOwned>(
        &self,
        request: Request,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(control::ask(&self.socket(), request))?)
    }
}

/// How long an agent may take to clean up, the longest plans included.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &DownArgs) -> anyhow::Result<ExitCode> {
    let interface = &args.agent.interface;
    let _: serde_json::Value = args.agent.ask(Request::Down)?;
    let asked = Instant::now();
    while args.agent.socket().exists() {
        if asked.elapsed() > PATIENCE {
            bail!(
                "the agent of {interface} is still there after {} s: see its log",
                PATIENCE.as_secs()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    match args.output.output {
        Output::Json => output::json(&serde_json::json!({ "interface": interface, "down": true }))?,
        Output::Text => output::line(&format!("{interface} has left the mesh"))?,
    }
    Ok(ExitCode::SUCCESS)
}
