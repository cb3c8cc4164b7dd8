//! Death at any step, for tests of what a killed process leaves: a build with debug assertions ends itself by SIGKILL as
//! soon as it has made as many changes to the host as `WIRELOOM_KILL_AFTER` says. Other builds have nothing of this.

/// Whether changes are counted, and so have to be made one by one.
pub(crate) fn is_counting() -> bool {
    #[cfg(debug_assertions)]
    return counted::LEFT.is_some();
    #[cfg(not(debug_assertions))]
    false
}

/// A change was made.
pub(crate) fn made() {
    #[cfg(debug_assertions)]
    counted::made();
}

#[cfg(debug_assertions)]
mod counted {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// How many changes are left to be made.
    pub(super) static LEFT: LazyLock<Option<AtomicU32>> = LazyLock::new(|| {
        let text = std::env::var("WIRELOOM_KILL_AFTER").ok()?;
        text.parse().ok().map(AtomicU32::new)
    });

    pub(super) fn made() {
        let is_last = |left: &AtomicU32| left.fetch_sub(1, Ordering::Relaxed) == 1;
        if LEFT.as_ref().is_some_and(is_last) {
            // Nobody can refuse a process its own end.
            let _ = kill_process(getpid(), Signal::KILL);
            std::process::abort();
        }
    }
}
