//! Benches of the whole tunnel: ours, its peers and a plain link on one rig.
//!
//! Owns the [`rig`], the subjects ([`subject`]) that can stand on it, the loads ([`load`]) and what is measured under
//! them ([`mod@measure`]), the [`report`], the [`targets`] that it is held against, its [`plot`]s and the [`record`] that
//! is kept of it. The program `bench-tunnel` runs the subjects in turn; `cargo xtask bench-tunnel` builds what it needs.
//! The benches of single parts lie in `benches/`; the pieces of the [hot path](hot_path) are here, because they are both
//! timed and counted. Nobody imports this package.

pub mod hot_path;
pub mod iperf;
pub mod limit;
pub mod load;
pub mod measure;
pub mod plot;
pub mod proc;
pub mod record;
pub mod report;
pub mod rig;
pub mod search;
pub mod subject;
pub mod targets;

pub use load::Load;
pub use measure::{Effort, measure};
pub use record::Record;
pub use report::Report;
pub use rig::Rig;
pub use subject::Subject;
