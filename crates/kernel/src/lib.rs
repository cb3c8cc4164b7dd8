//! The host's links, addresses and routes: observed, compared with what is desired, and changed.
