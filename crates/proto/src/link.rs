//! A link: one socket, how bytes travel over it, and its name. What was begun on it and is not sent yet is in
//! [`crate::unsent`].
//!
//! A link is not a stream. With HTTP/1.1 it carries exactly one, and the two share a record and a slot. A
//! transport that carries several streams has one link for all of them: bytes that were begun belong to the
//! link, because nothing else may be written before they are finished, and the end of a stream is not the end
//! of its link.

use crate::frame::WireFormat;

/// How the bytes of a stream reach the socket. It is known where the socket comes from: from a listener, or
/// from the program that gives it to be adopted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// HTTP/1 on the bare socket: the bytes of a send go to every member as they are.
    #[default]
    Http1,
}

impl Transport {
    const ALL: [Transport; 1] = [Transport::Http1];
}

/// In which bytes a stream's events, heartbeats, gaps and end are written: how they travel, and how they are
/// delimited. It is part of an audience's key, because members of one audience are sent the same bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Encoding {
    /// How the bytes reach the socket.
    pub transport: Transport,
    /// How each piece is delimited.
    pub format: WireFormat,
}

impl Encoding {
    /// In this format over this transport.
    pub fn new(transport: Transport, format: WireFormat) -> Encoding {
        Encoding { transport, format }
    }
}

impl From<WireFormat> for Encoding {
    /// In this format over HTTP/1 on the bare socket.
    fn from(format: WireFormat) -> Encoding {
        Encoding { transport: Transport::Http1, format }
    }
}

/// A link's name: its slot, and the generation that tells it from others that had the slot. A notification of
/// the operating system bears it, so a stale one is recognized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkKey {
    /// The index in the table.
    pub slot: u32,
    /// At most [`LinkKey::GENERATIONS`].
    pub generation: u32,
}

impl LinkKey {
    const GENERATION_BITS: u32 = 29;

    /// The largest generation, so that slot and generation fit into a token beside what else a token says.
    pub const GENERATIONS: u32 = (1 << LinkKey::GENERATION_BITS) - 1;
}

/// A socket with its transport and its generation, in eight bytes.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// The socket's descriptor.
    pub socket: i32,
    /// The generation, and above it the transport's index in [`Transport::ALL`].
    packed: u32,
}

impl Link {
    /// A link under the name that was reserved for it.
    pub fn new(socket: i32, key: LinkKey, transport: Transport) -> Link {
        Link { socket, packed: key.generation | (transport as u32) << LinkKey::GENERATION_BITS }
    }

    /// How bytes travel over it.
    pub fn transport(&self) -> Transport {
        Transport::ALL[(self.packed >> LinkKey::GENERATION_BITS) as usize]
    }

    /// Tells it from others that had its slot.
    pub fn generation(&self) -> u32 {
        self.packed & LinkKey::GENERATIONS
    }
}
