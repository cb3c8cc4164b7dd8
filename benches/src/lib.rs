//! Benches of the hot path and of the plan.
