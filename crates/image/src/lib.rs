//! Container images in the OCI format, built without a container engine.
//!
//! Owns the [`Layer`], which is a set of files with nothing in it that changes from build to build, the [`Image`] of
//! layers that becomes one archive, and the [recipe](mod@recipe) of Wireloom's own image. Equal files give an equal
//! archive, byte by byte.
//!
//! For builds, tests and the demo: what ships never imports this, and this imports none of ours.

mod error;
mod image;
mod layer;
pub mod recipe;

pub use error::Error;
pub use image::Image;
pub use layer::Layer;
