//! The sockets and the threads that receive from them.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use wireloom_io::{Binding, Signal, UdpReceive};

use crate::receive;
use crate::shared::{Outlet, Shared};

/// Bound sockets whose threads run. Dropped, they are given up: the threads end and the sockets are closed.
#[derive(Debug)]
pub(crate) struct Sockets {
    stop: Arc<Signal>,
    threads: Vec<JoinHandle<()>>,
}

impl Sockets {
    /// Takes sockets into use: from here on datagrams leave through them.
    pub(crate) fn start(shared: &Arc<Shared>, binding: Binding) -> io::Result<Self> {
        let mut sockets = Self { stop: Arc::new(Signal::new()?), threads: Vec::new() };
        for (queue, receivers) in binding.receivers.into_iter().enumerate() {
            for receiver in receivers {
                sockets.spawn(shared, queue, receiver)?;
            }
        }
        shared.outlet.store(Arc::new(Outlet { port: binding.port, sender: binding.sender }));
        Ok(sockets)
    }

    fn spawn(
        &mut self,
        shared: &Arc<Shared>,
        queue: usize,
        receiver: Box<dyn UdpReceive>,
    ) -> io::Result<()> {
        let (shared, stop) = (Arc::clone(shared), Arc::clone(&self.stop));
        let name = format!("wl-receive-{}", self.threads.len());
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || receive::run(&shared, queue, receiver, &stop))?;
        self.threads.push(thread);
        Ok(())
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.stop.raise();
        for thread in self.threads.drain(..) {
            // A panic of a receiving thread was printed when it happened.
            let _ = thread.join();
        }
    }
}
