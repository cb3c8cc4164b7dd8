//! `wireloom cni`: a container runtime's plugin. Runtimes call a program without arguments and say in its environment what
//! they ask.

use std::io::{Read as _, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use wireloom_cni::plugin;

/// Whether a runtime has called this program, with as many arguments, its name among them.
pub(crate) fn is_called(arguments: usize) -> bool {
    arguments == 1 && std::env::var_os("CNI_COMMAND").is_some()
}

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).context("read what the runtime says")?;
    let answer = plugin::run(|name| std::env::var(name).ok(), &input);
    std::io::stdout().write_all(answer.text.as_bytes()).context("answer the runtime")?;
    Ok(if answer.is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
