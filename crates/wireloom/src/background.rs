//! Running in the background: this program starts itself again in a session of its own, and the first process waits
//! until the second one is ready, so that whoever called sees errors and never a device that is not there yet.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail};

/// Set in the environment of the process that stays.
const STAYS: &str = "WIRELOOM_BACKGROUND";

/// The word by which the process that stays says that it is ready.
const READY: &str = "ready";

/// Which process this is.
pub(crate) enum Role {
    /// The process that was called: the other one is ready, or failed and said why.
    Called(ExitCode),
    /// The only process, in front.
    Front,
    /// The process that stays.
    Stays(Background),
}

/// The process that stays, until it is ready.
#[must_use = "the caller waits for `ready`"]
pub(crate) struct Background(());

/// Splits into the two processes, unless this one is to stay in front. Returns in both of them.
pub(crate) fn split(front: bool) -> anyhow::Result<Role> {
    if front {
        return Ok(Role::Front);
    }
    if std::env::var_os(STAYS).is_some() {
        // Fails only if it leads a session already, which is what is wanted.
        let _ = rustix::process::setsid();
        return Ok(Role::Stays(Background(())));
    }
    let program = std::env::current_exe().context("find this program's own file")?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(STAYS, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the process that stays in the background")?;
    let mut word = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut word).context("wait for the background process")?;
    }
    if word.trim() == READY {
        return Ok(Role::Called(ExitCode::SUCCESS));
    }
    let status = child.wait().context("wait for the background process")?;
    match status.signal() {
        Some(signal) => {
            bail!("the background process was ended by signal {signal} before it was ready")
        }
        None => Ok(Role::Called(ExitCode::FAILURE)),
    }
}

impl Background {
    /// Tells the waiting process that all is up, and lets go of its terminal.
    pub(crate) fn ready(self) -> anyhow::Result<()> {
        println!("{READY}");
        std::io::stdout().flush().context("tell the calling process that all is up")?;
        let null = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context("open /dev/null")?;
        rustix::stdio::dup2_stdout(&null).context("let go of standard output")?;
        rustix::stdio::dup2_stderr(&null).context("let go of standard error")?;
        Ok(())
    }
}
