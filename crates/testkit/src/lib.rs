//! What tests share: the check for what a test needs, and the search for the binary under test.
