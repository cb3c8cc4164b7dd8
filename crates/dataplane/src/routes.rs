//! The thread that gives up source addresses whose routes have moved, as the kernel's own WireGuard does
//! (`drivers/net/wireguard/socket.c`, `send4`): a datagram from an address of one interface that leaves by another may be
//! dropped on its way, and its answer may not come back.

use std::sync::atomic::Ordering;

use wireloom_io::{RouteWatch, Wake};

use crate::shared::Shared;

/// Looks at the peers' source addresses whenever routes have changed, until told to stop.
pub(crate) fn run(shared: &Shared, mut routes: Box<dyn RouteWatch>) {
    loop {
        match routes.wait(&shared.stop) {
            Ok(Wake::Stopped) => return,
            Ok(_) => {}
            Err(error) => {
                // Addresses are still given up when the kernel refuses them, and with the next handshake.
                tracing::warn!(%error, "changes of routes can't be heard any more");
                return;
            }
        }
        let mark = shared.mark.load(Ordering::Relaxed);
        shared.device.look_at_sources(|remote, local| {
            routes
                .interface(remote, local.address, mark)
                .is_none_or(|interface| interface == local.interface)
        });
    }
}
