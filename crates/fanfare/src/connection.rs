//! The names of connections.

use std::fmt;
use std::str::FromStr;

use fanfare_proto::link::LinkKey;

/// A subscriber's connection, by a name that no other connection of the engine has had before it, or gets for
/// a long time after it (half a billion connections of its shard).
///
/// Life-cycle events bear it, and [`crate::Hub::disconnect`] and [`crate::Hub::change_topics`] take it. Its
/// text is `<engine>-<shard>-<slot>-<generation>`. Each engine has a random number, so the name of a
/// connection to another process, or to this one before its restart, is unknown here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub(crate) engine: u32,
    pub(crate) shard: u32,
    pub(crate) link: LinkKey,
}

/// A text that is no name of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidConnectionId;

impl ConnectionId {
    pub(crate) fn new(engine: u32, shard: usize, link: LinkKey) -> ConnectionId {
        ConnectionId { engine, shard: shard as u32, link }
    }

    /// The number of the shard that serves the connection: its position in [`crate::Hub::shard_counts`].
    pub fn shard(self) -> usize {
        self.shard as usize
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectionId { engine, shard, link: LinkKey { slot, generation } } = self;
        write!(f, "{engine}-{shard}-{slot}-{generation}")
    }
}

impl FromStr for ConnectionId {
    type Err = InvalidConnectionId;

    fn from_str(text: &str) -> Result<ConnectionId, InvalidConnectionId> {
        let mut numbers = text.split('-').map(|number| {
            let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
            number.parse::<u32>().ok().filter(|_| is_number)
        });
        let mut next = || numbers.next().flatten().ok_or(InvalidConnectionId);
        let (engine, shard, slot, generation) = (next()?, next()?, next()?, next()?);
        let is_whole = numbers.next().is_none() && generation <= LinkKey::GENERATIONS;
        is_whole
            .then_some(ConnectionId { engine, shard, link: LinkKey { slot, generation } })
            .ok_or(InvalidConnectionId)
    }
}

impl fmt::Display for InvalidConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a connection is <engine>-<shard>-<slot>-<generation>, four numbers")
    }
}

impl std::error::Error for InvalidConnectionId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        let id = ConnectionId::new(u32::MAX, 3, LinkKey { slot: 7, generation: LinkKey::GENERATIONS });
        assert_eq!(id.to_string().parse(), Ok(id));
        let wrong = [
            "",
            "1-2-3",
            "1-2-3-4-5",
            "1-2-3-+4",
            "1-2--4",
            "a-2-3-4",
            "1-2-3-4294967295",
            "1-2-3-99999999999",
        ];
        for wrong in wrong {
            assert_eq!(wrong.parse::<ConnectionId>(), Err(InvalidConnectionId), "{wrong:?}");
        }
    }
}
