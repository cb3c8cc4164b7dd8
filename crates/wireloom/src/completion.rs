//! `wireloom completion SHELL`.

use std::process::ExitCode;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;

#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell that shall complete wireloom's commands.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    clap_complete::generate(args.shell, &mut Cli::command(), "wireloom", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
