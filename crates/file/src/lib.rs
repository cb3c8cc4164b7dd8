//! The file registry: a mesh written down in mesh.toml, reloaded when it changes.
