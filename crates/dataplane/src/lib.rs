//! The threads that carry packets between a TUN device and the network.
