//! From a snapshot of the mesh to one node's plan.
