//! ICMP errors for packets that go nowhere, as the kernel's own WireGuard sends them (`drivers/net/wireguard/device.c`,
//! `wg_xmit`): host unreachable, or address unreachable in IPv6. Beyond it, packet too big, as any router has to send it.

use wireloom_io::TunDevice;
use wireloom_packet::icmp::{self, Trouble};
use wireloom_packet::{Frame, IpPacket, VnetHeader};
use wireloom_tunnel::{DropReason, Moment, Refusal};

use crate::counters::{Counter, Counters};

/// Errors that may be sent at once.
const BURST: u32 = 50;
/// Errors a second after that.
const RATE: u32 = 100;

/// Sends errors within a rate (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4(f)).
#[derive(Debug)]
pub(crate) struct Refuser {
    tokens: f64,
    refilled: Moment,
    buffer: [u8; icmp::ERROR_BYTES],
}

impl Default for Refuser {
    fn default() -> Self {
        Self {
            tokens: f64::from(BURST),
            refilled: Moment::default(),
            buffer: [0; icmp::ERROR_BYTES],
        }
    }
}

impl Refuser {
    /// Tells the senders of refused frames.
    pub(crate) fn answer(
        &mut self,
        now: Moment,
        frames: &[Frame<'_>],
        refused: &[Refusal],
        (tun, queue): (&dyn TunDevice, usize),
        counts: &mut Counters,
    ) {
        for refusal in refused {
            let trouble = match (refusal.reason, refusal.most) {
                (DropReason::NoPeer | DropReason::NoEndpoint | DropReason::NoKey, _) => {
                    Trouble::Unreachable
                }
                (_, Some(most)) => Trouble::TooBig { mtu: most.into() },
                _ => continue,
            };
            let Some(frame) = frames.get(refusal.frame) else { continue };
            if !self.may_send(now) {
                return;
            }
            // From the address that cannot be reached: it lies behind the tunnel, so the host takes the error from
            // there, while from an address of its own it would drop it as forged.
            let error = IpPacket::parse(frame.packet).ok().and_then(|packet| {
                icmp::error(frame.packet, trouble, packet.destination(), &mut self.buffer)
            });
            let Some(length) = error else { continue };
            let whole = 0..length;
            let parts = std::slice::from_ref(&whole);
            if tun.write(queue, &VnetHeader::default(), parts, &self.buffer).is_ok() {
                counts.add(Counter::Refusals, 1);
            }
        }
    }

    /// Takes a token, if there is one.
    fn may_send(&mut self, now: Moment) -> bool {
        let refill = now.since(self.refilled).as_secs_f64() * f64::from(RATE);
        self.tokens = (self.tokens + refill).min(f64::from(BURST));
        self.refilled = self.refilled.max(now);
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn errors_keep_within_their_rate() {
        let mut refuser = Refuser::default();
        let start = Moment::new(Duration::from_secs(1000));
        let sent = |refuser: &mut Refuser, at| (0..1000).filter(|_| refuser.may_send(at)).count();
        assert_eq!(sent(&mut refuser, start), 50);
        assert_eq!(sent(&mut refuser, start + Duration::from_millis(100)), 10);
        assert_eq!(sent(&mut refuser, start), 0, "time does not run backwards");
        assert_eq!(sent(&mut refuser, start + Duration::from_secs(60)), 50);
    }
}
