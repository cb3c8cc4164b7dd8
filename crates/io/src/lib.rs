//! TUN devices with offload and UDP sockets with GSO and GRO.
