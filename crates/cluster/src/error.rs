//! What goes wrong with a cluster.

/// Why a cluster, or something in it, did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No certificate could be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A program ended although it should run.
    #[error("{program} has ended; its last words:\n{log}")]
    Ended {
        /// The program.
        program: &'static str,
        /// The end of what it wrote.
        log: String,
    },
    /// An image could not be built.
    #[error(transparent)]
    Image(#[from] wireloom_image::Error),
    /// A host or a program on it failed.
    #[error(transparent)]
    Lab(#[from] wireloom_lab::Error),
    /// Something that was waited for did not come.
    #[error("not within {seconds} s: {what}; the last words about it:\n{log}")]
    Late {
        /// What was waited for.
        what: String,
        /// The time that it had.
        seconds: u64,
        /// What tells why.
        log: String,
    },
    /// The system refused something.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    pub(crate) const fn system(action: &'static str, source: std::io::Error) -> Self {
        Self::System { action, source }
    }
}
