//! A queue in which clients take turns: a client with thousands of requests delays its own next ones, and hardly those
//! of others.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

/// What waits, by client.
#[derive(Debug)]
pub(crate) struct Turns<T> {
    of_clients: HashMap<Option<IpAddr>, VecDeque<T>>,
    /// Clients that have some, in the order of their turns.
    turns: VecDeque<Option<IpAddr>>,
    len: usize,
    limit: usize,
    limit_of_client: usize,
}

impl<T> Turns<T> {
    /// An empty queue for at most so many of all clients, and so many of one.
    pub(crate) fn new(limit: usize, limit_of_client: usize) -> Turns<T> {
        Turns { of_clients: HashMap::new(), turns: VecDeque::new(), len: 0, limit, limit_of_client }
    }

    /// Adds one as the last of its client. Clients without an address are one client.
    ///
    /// # Errors
    /// There is no room, in all or for this client: it is given back.
    pub(crate) fn push(&mut self, client: Option<IpAddr>, item: T) -> Result<(), T> {
        if self.len >= self.limit {
            return Err(item);
        }
        let client = client.map(client_key);
        let its = self.of_clients.entry(client).or_default();
        if its.len() >= self.limit_of_client {
            return Err(item);
        }
        if its.is_empty() {
            self.turns.push_back(client);
        }
        its.push_back(item);
        self.len += 1;
        Ok(())
    }

    /// The next one of the client whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let client = self.turns.pop_front()?;
        let its = self.of_clients.get_mut(&client)?;
        let next = its.pop_front();
        if its.is_empty() {
            self.of_clients.remove(&client);
            self.give_back();
        } else {
            self.turns.push_back(client);
        }
        self.len -= usize::from(next.is_some());
        next
    }

    /// All that wait, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.of_clients.values().flatten()
    }

    /// Keeps those only for which `keep` says so.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.of_clients.retain(|_, its| {
            its.retain(&mut keep);
            !its.is_empty()
        });
        self.len = self.of_clients.values().map(VecDeque::len).sum();
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

/// Addresses of one client: IPv4 whole, IPv6 by its network of 64 bits.
fn client_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    /// A client with a thousand bad tokens was in front of all others. The addresses of one network of IPv6 are one client.
    #[test]
    fn clients_take_turns() {
        let mut queue = Turns::new(3000, 1000);
        for number in 0..1000 {
            let of = format!("2001:db8:0:1::{:x}", number + 1);
            assert_eq!(queue.push(address(&of), number), Ok(()));
        }
        for (number, of) in [(1000, address("192.0.2.1")), (1001, address("::ffff:192.0.2.1")), (1002, None)]
        {
            assert_eq!(queue.push(of, number), Ok(()));
        }
        let first: Vec<_> = (0..7).filter_map(|_| queue.pop()).collect();
        assert_eq!(first, [0, 1000, 1002, 1, 1001, 2, 3]);
        assert_eq!((queue.len, queue.iter().count()), (996, 996));
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, (4..1000).collect::<Vec<_>>());
        assert_eq!((queue.len, queue.of_clients.len(), queue.turns.len()), (0, 0, 0));
    }

    #[test]
    fn the_queue_has_a_bound() {
        let mut queue = Turns::new(2, 2);
        assert!(queue.push(None, 0).is_ok() && queue.push(address("192.0.2.1"), 1).is_ok());
        assert_eq!(queue.push(address("192.0.2.2"), 2), Err(2));
        assert!(queue.pop().is_some() && queue.push(None, 3).is_ok());
    }

    /// One client filled the queue, and all others were refused.
    #[test]
    fn one_client_fills_its_own_share_only() {
        let mut queue = Turns::new(100, 10);
        for number in 0..20 {
            assert_eq!(queue.push(address("192.0.2.1"), number).is_ok(), number < 10);
        }
        assert!(queue.push(address("192.0.2.2"), 20).is_ok());
    }

    #[test]
    fn what_is_not_kept_leaves_no_turn_behind() {
        let mut queue = Turns::new(100, 10);
        for number in 0..10 {
            let of = if number < 5 { "192.0.2.1" } else { "192.0.2.2" };
            assert!(queue.push(address(of), number).is_ok());
        }
        queue.retain(|number| *number >= 7);
        assert_eq!((queue.len, queue.turns.len()), (3, 1));
        assert_eq!(queue.pop(), Some(7));
        queue.retain(|_| false);
        assert_eq!((queue.pop(), queue.len, queue.turns.len()), (None, 0, 0));
    }
}
