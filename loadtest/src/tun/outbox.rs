//! Packets that wait for the device, one behind the other in one buffer.

/// Zero bytes before each packet: the header of a device with `IFF_VNET_HDR`, which so says nothing special.
pub(super) const HEADROOM: usize = 10;

/// Packets in the order in which they are to leave.
#[derive(Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Outbox {
    /// Adds the packet that `write` appends.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(&[0; HEADROOM]);
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Each packet with its headroom.
    pub(crate) fn packets(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.packets_between(0, self.len())
    }

    /// Some of them, by their numbers.
    pub(crate) fn packets_between(&self, from: usize, to: usize) -> impl ExactSizeIterator<Item = &[u8]> {
        (from..to).map(|index| {
            let start = if index == 0 { 0 } else { self.ends[index - 1] };
            &self.bytes[start..self.ends[index]]
        })
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}
