//! The loop of a node: registry, topology, data plane, kernel.
