//! The kernel's control messages beside a datagram.

use wireloom_io::udp::control::{self, Control};

/// Reads control messages out of any bytes: a segment size is never 0, and behind a message whose length makes no sense
/// nothing is read.
pub fn io_control(data: &[u8]) {
    assert_ne!(control::parse(data).segment, Some(0));
    let hidden = [&[0; 16], data].concat();
    assert_eq!(control::parse(&hidden), Control::default());
}
