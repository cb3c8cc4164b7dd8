//! The signals that ask a process to end.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

/// Takes over SIGINT and SIGTERM. The returned future completes on the first of either.
pub(crate) fn stop() -> anyhow::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
