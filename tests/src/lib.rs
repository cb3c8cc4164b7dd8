//! Scenarios that need more than one crate, and the rules of the house.
//!
//! Owns nothing but its files under `tests/`, each named after what it proves. Imports any crate it likes: nobody
//! imports this one.
