//! The replay window: which of the newest messages of a session have been received (RFC 6479).

/// How far behind the newest message another may be, as in Linux (`drivers/net/wireguard/messages.h`).
pub(crate) const WINDOW: u64 = 8_192;

const BLOCK_BITS: u64 = u64::BITS as u64;
/// One block more than the window spans, so that a block can be cleared while the window needs all others.
const BLOCKS: u64 = WINDOW / BLOCK_BITS + 1;

/// A bitmap of the last 8,192 messages. Moving on clears whole blocks and shifts nothing.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    /// One above the highest number taken.
    next: u64,
    blocks: [u64; BLOCKS as usize],
}

impl Window {
    pub(crate) const fn new() -> Self {
        Self { next: 0, blocks: [0; BLOCKS as usize] }
    }

    /// One above the highest number taken.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// Whether a message may be new: it is neither known nor too old to tell.
    pub(crate) fn is_new(&self, number: u64) -> bool {
        if number >= self.next {
            return true;
        }
        let (block, bit) = place(number);
        self.next - number <= WINDOW && self.blocks[block] & bit == 0
    }

    /// Takes an authentic message; `false` if it is not new.
    pub(crate) fn take(&mut self, number: u64) -> bool {
        if !self.is_new(number) {
            return false;
        }
        if number >= self.next {
            let newest = self.next.saturating_sub(1) / BLOCK_BITS;
            let blocks = (number / BLOCK_BITS - newest).min(BLOCKS);
            for block in number / BLOCK_BITS + 1 - blocks..=number / BLOCK_BITS {
                // The remainder is below BLOCKS.
                self.blocks[(block % BLOCKS) as usize] = 0;
            }
            // The numbers that may be sealed end below this one.
            self.next = number.saturating_add(1);
        }
        let (block, bit) = place(number);
        self.blocks[block] |= bit;
        true
    }
}

/// A number's block and its bit there.
const fn place(number: u64) -> (usize, u64) {
    ((number / BLOCK_BITS % BLOCKS) as usize, 1 << (number % BLOCK_BITS))
}
