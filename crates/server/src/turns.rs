//! A queue in which clients take turns: a client with thousands of requests delays its own next ones, and
//! hardly those of others.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use fanfare::{ClientLimits, bound_for};

/// The entries that wait, by client. Those of the operator have every second turn.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    of_clients: HashMap<Option<ClientKey>, Line<T>>,
    /// Clients that have some, in the order of their turns.
    turns: VecDeque<Option<ClientKey>>,
    of_operator: Line<T>,
    /// The last turn was the operator's.
    was_operators: bool,
    len: usize,
    bytes: usize,
    bounds: TurnBounds,
}

/// The bounds of a queue. Of those of all clients, the last part is the operator's ([`bound_for`]).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnBounds {
    pub(crate) items: usize,
    /// Memory of all items.
    pub(crate) bytes: usize,
    /// Of each bound, one client has one part of so many.
    pub(crate) shares: usize,
}

/// The entries of one client that wait, each with its memory.
#[derive(Debug)]
struct Line<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
}

/// The client of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TurnOf {
    /// The address of the client, for logs and for what others are told.
    pub(crate) client: Option<IpAddr>,
    /// Addresses with one key are one client, and so are all clients without an address.
    pub(crate) key: Option<ClientKey>,
    /// It may use the reserve.
    pub(crate) is_operator: bool,
}

/// What stands for a client: [`ClientLimits::address_key`].
pub(crate) type ClientKey = [u64; 2];

impl TurnOf {
    /// Of this client. The limits say which addresses of IPv6 are one client.
    pub(crate) fn new(client: Option<IpAddr>, is_operator: bool, limits: &ClientLimits) -> TurnOf {
        TurnOf { client, key: client.map(|address| limits.address_key(address)), is_operator }
    }
}

impl<T> Default for Line<T> {
    fn default() -> Line<T> {
        Line { items: VecDeque::new(), bytes: 0 }
    }
}

impl<T> Line<T> {
    fn pop(&mut self) -> Option<(T, usize)> {
        let (item, bytes) = self.items.pop_front()?;
        self.bytes -= bytes;
        Some((item, bytes))
    }

    fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.items.retain(|(item, _)| keep(item));
        self.bytes = self.items.iter().map(|(_, bytes)| bytes).sum();
    }
}

impl<T> Turns<T> {
    /// An empty queue.
    pub(crate) fn new(bounds: TurnBounds) -> Turns<T> {
        Turns {
            of_clients: HashMap::new(),
            turns: VecDeque::new(),
            of_operator: Line::default(),
            was_operators: false,
            len: 0,
            bytes: 0,
            bounds,
        }
    }

    /// Adds one, which takes so much memory, as the last of its client.
    ///
    /// # Errors
    /// There is no room, in all or for this client: it is given back.
    pub(crate) fn push(&mut self, of: TurnOf, item: T, bytes: usize) -> Result<(), T> {
        let TurnBounds { items: most, bytes: most_bytes, shares } = self.bounds;
        let has_room = |len: usize, used: usize, most: usize, most_bytes: usize| {
            len < most && used.saturating_add(bytes) <= most_bytes
        };
        let [of_all, bytes_of_all] = [most, most_bytes].map(|bound| bound_for(of.is_operator, bound));
        if !has_room(self.len, self.bytes, of_all, bytes_of_all) {
            return Err(item);
        }
        let client = of.key;
        let line = match of.is_operator {
            true => &mut self.of_operator,
            false => self.of_clients.entry(client).or_default(),
        };
        let was_empty = line.items.is_empty();
        if !has_room(line.items.len(), line.bytes, most / shares, most_bytes / shares) {
            if was_empty && !of.is_operator {
                self.of_clients.remove(&client);
            }
            return Err(item);
        }
        line.items.push_back((item, bytes));
        line.bytes += bytes;
        if was_empty && !of.is_operator {
            self.turns.push_back(client);
        }
        self.len += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// The next one of the client whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        self.was_operators =
            !self.of_operator.items.is_empty() && (!self.was_operators || self.turns.is_empty());
        let (next, bytes) = if self.was_operators { self.of_operator.pop()? } else { self.pop_of_client()? };
        self.len -= 1;
        self.bytes -= bytes;
        Some(next)
    }

    /// The operator's next one.
    pub(crate) fn pop_operators(&mut self) -> Option<T> {
        let (next, bytes) = self.of_operator.pop()?;
        self.len -= 1;
        self.bytes -= bytes;
        Some(next)
    }

    fn pop_of_client(&mut self) -> Option<(T, usize)> {
        let client = self.turns.pop_front()?;
        let line = self.of_clients.get_mut(&client)?;
        let next = line.pop();
        if line.items.is_empty() {
            self.of_clients.remove(&client);
            self.give_back();
        } else {
            self.turns.push_back(client);
        }
        next
    }

    /// All that wait, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let lines = self.of_clients.values().chain([&self.of_operator]);
        lines.flat_map(|line| line.items.iter().map(|(item, _)| item))
    }

    /// Keeps those only for which `keep` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.of_operator.retain(&mut keep);
        self.of_clients.retain(|_, line| {
            line.retain(&mut keep);
            !line.items.is_empty()
        });
        let lines = || self.of_clients.values().chain([&self.of_operator]);
        (self.len, self.bytes) =
            (lines().map(|line| line.items.len()).sum(), lines().map(|line| line.bytes).sum());
        let of_clients = &self.of_clients;
        self.turns.retain(|client| of_clients.contains_key(client));
        self.give_back();
    }

    /// What a crowd needed is given back.
    fn give_back(&mut self) {
        if self.of_clients.is_empty() {
            (self.of_clients, self.turns) = (HashMap::new(), VecDeque::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> TurnOf {
        TurnOf::new(Some(text.parse().expect("an address")), false, &ClientLimits::default())
    }

    const NOBODY: TurnOf = TurnOf { client: None, key: None, is_operator: false };
    const OPERATOR: TurnOf = TurnOf { client: None, key: None, is_operator: true };

    fn turns(items: usize, shares: usize) -> Turns<u32> {
        Turns::new(TurnBounds { items, bytes: 1_000_000, shares })
    }

    /// A client with a thousand bad tokens was in front of all others. The addresses of one network of IPv6
    /// are one client.
    #[test]
    fn clients_take_turns() {
        let mut queue = turns(3000, 3);
        for number in 0..1000 {
            assert_eq!(queue.push(of(&format!("2001:db8:0:1::{:x}", number + 1)), number, 1), Ok(()));
        }
        for (number, of) in [(1000, of("192.0.2.1")), (1001, of("::ffff:192.0.2.1")), (1002, NOBODY)] {
            assert_eq!(queue.push(of, number, 1), Ok(()));
        }
        let first: Vec<_> = (0..7).filter_map(|_| queue.pop()).collect();
        assert_eq!(first, [0, 1000, 1002, 1, 1001, 2, 3]);
        assert_eq!((queue.len, queue.bytes, queue.iter().count()), (996, 996, 996));
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, (4..1000).collect::<Vec<_>>());
        assert_eq!((queue.len, queue.bytes, queue.of_clients.len(), queue.turns.len()), (0, 0, 0, 0));
    }

    /// Where a client has a network of 48 bits, and the operator has said so, it had the shares of 65,536
    /// clients.
    #[test]
    fn a_network_of_ipv6_is_as_long_as_the_limits_say() {
        let of = |text: &str, bits| {
            let limits = ClientLimits::default().with_ipv6_prefix_bits(bits);
            TurnOf::new(Some(text.parse().expect("an address")), false, &limits)
        };
        for (bits, clients, order) in [(48, 1, [0, 1, 2]), (64, 2, [0, 2, 1]), (128, 3, [0, 1, 2])] {
            let mut queue = turns(100, 10);
            for (number, text) in ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1"].iter().enumerate()
            {
                assert!(queue.push(of(text, bits), number as u32, 1).is_ok());
            }
            assert_eq!(queue.turns.len(), clients, "{bits}");
            assert_eq!(std::iter::from_fn(|| queue.pop()).collect::<Vec<_>>(), order);
        }
    }

    #[test]
    fn the_queue_has_a_bound() {
        let mut queue = turns(4, 1);
        assert!(queue.push(NOBODY, 0, 1).is_ok() && queue.push(of("192.0.2.1"), 1, 1).is_ok());
        assert_eq!(queue.push(of("192.0.2.2"), 2, 1), Err(2));
        assert!(queue.pop().is_some() && queue.push(NOBODY, 3, 1).is_ok());
    }

    /// Sixteen thousand tokens with the longest requests took much more memory than the server had said.
    #[test]
    fn the_memory_has_a_bound_too() {
        let mut queue = Turns::new(TurnBounds { items: 1000, bytes: 3200, shares: 10 });
        assert_eq!(queue.push(of("192.0.2.1"), 0, 321), Err(0), "it is more than the share of a client");
        assert_eq!((queue.of_clients.len(), queue.turns.len()), (0, 0));
        for number in 0..9 {
            assert!(queue.push(of(&format!("192.0.2.{number}")), number, 320).is_ok());
        }
        assert_eq!(queue.push(of("192.0.2.9"), 9, 320), Err(9), "the last part is the operator's");
        assert_eq!(queue.push(OPERATOR, 10, 320), Ok(()));
        queue.retain(|number| *number != 10);
        assert_eq!(queue.bytes, 9 * 320);
        assert!(queue.pop().is_some() && queue.push(of("192.0.2.9"), 11, 320).is_ok());
    }

    /// One client filled the queue, and all others were refused.
    #[test]
    fn one_client_fills_its_own_share_only() {
        let mut queue = turns(100, 10);
        for number in 0..20 {
            assert_eq!(queue.push(of("192.0.2.1"), number, 1).is_ok(), number < 10);
        }
        assert!(queue.push(of("192.0.2.2"), 20, 1).is_ok());
    }

    /// A crowd that filled the queue kept the operator out, and each of its clients had a turn before the
    /// operator.
    #[test]
    fn the_operator_has_room_and_every_second_turn() {
        let mut queue = turns(32, 4);
        let crowd = (0..40).filter(|number| queue.push(of(&format!("192.0.2.{number}")), *number, 1).is_ok());
        assert_eq!(crowd.count(), 28);
        for number in 100..104 {
            assert!(queue.push(OPERATOR, number, 1).is_ok());
        }
        assert_eq!(queue.push(OPERATOR, 104, 1), Err(104), "the queue is full");
        let first: Vec<_> = (0..6).filter_map(|_| queue.pop()).collect();
        assert_eq!(first, [100, 0, 101, 1, 102, 2]);
        assert_eq!((queue.pop_operators(), queue.pop_operators(), queue.len), (Some(103), None, 25));
    }

    #[test]
    fn what_is_not_kept_leaves_no_turn_behind() {
        let mut queue = turns(100, 10);
        for number in 0..10 {
            let text = if number < 5 { "192.0.2.1" } else { "192.0.2.2" };
            assert!(queue.push(of(text), number, 1).is_ok());
        }
        queue.retain(|number| *number >= 7);
        assert_eq!((queue.len, queue.turns.len()), (3, 1));
        assert_eq!(queue.pop(), Some(7));
        queue.retain(|_| false);
        assert_eq!((queue.pop(), queue.len, queue.turns.len()), (None, 0, 0));
    }
}
