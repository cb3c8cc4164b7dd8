//! Benches of the whole tunnel: ours, its peers and a plain link on one rig.
//!
//! Owns the [`rig`] of two hosts, the subjects ([`subject`]) that can stand on it, what is measured ([`mod@measure`]), and the
//! [`report`]. The program `bench-tunnel` runs them in turn; `cargo xtask bench-tunnel` builds what it needs. The
//! criterion benches of single parts lie in `benches/`. Nobody imports this package.

pub mod hot_path;
pub mod measure;
pub mod report;
pub mod rig;
pub mod subject;

pub use measure::measure;
pub use report::Report;
pub use rig::Rig;
pub use subject::Subject;
