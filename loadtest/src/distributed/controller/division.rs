//! How the work is divided: threads among machines, and long lists among messages.

use crate::distributed::protocol::Machine;
use crate::failure::{Failure, Outcome};

/// Lines of a list, and bytes of them, in one message.
const LINES: usize = 50_000;
const LINES_BYTES: usize = 4 << 20;
/// Descriptors of a thread that are not streams.
const SPARE: u64 = 64;

/// Lines in messages of a size that can be sent.
pub(super) fn pieces(lines: &[String]) -> Vec<&[String]> {
    let mut pieces = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, line) in lines.iter().enumerate() {
        if at > start && (bytes + line.len() > LINES_BYTES || at - start >= LINES) {
            pieces.push(&lines[start..at]);
            (start, bytes) = (at, 0);
        }
        bytes += line.len();
    }
    pieces.push(&lines[start..]);
    pieces
}

/// How many threads each machine has: what was asked for, or one per core, and more where descriptors would
/// not last. Each thread has the same number of subscribers.
pub(super) fn divide(subscribers: u64, threads: Option<usize>, machines: &[&Machine]) -> Outcome<Vec<usize>> {
    if subscribers < machines.len() as u64 {
        return Err(Failure::new(format!(
            "{subscribers} subscribers are fewer than {} agents",
            machines.len()
        )));
    }
    let mut shares: Vec<usize> =
        machines.iter().map(|machine| threads.unwrap_or(machine.cores).clamp(1, 1024)).collect();
    if shares.iter().sum::<usize>() as u64 > subscribers {
        shares.fill(1);
    }
    let total = shares.iter().sum::<usize>() as u64;
    let least = machines.iter().map(|machine| machine.descriptors).min().unwrap_or(0);
    let most_each = least.saturating_sub(SPARE).max(1);
    if threads.is_none() {
        let times = subscribers.div_ceil(total).div_ceil(most_each) as usize;
        shares.iter_mut().for_each(|share| *share = share.saturating_mul(times).min(1024));
    }
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_divided_by_cores_and_grow_with_the_descriptors_that_are_needed() {
        let machine = |cores, descriptors| Machine { cores, descriptors, ..Machine::default() };
        let (small, large) = (machine(2, 1_064), machine(6, 1_000_000));
        let told = |subscribers, threads| divide(subscribers, threads, &[&small, &large]).unwrap();
        assert_eq!(told(4_000, None), [2, 6]);
        assert_eq!(told(20_000, None), [6, 18]);
        assert_eq!(told(20_000, Some(3)), [3, 3]);
        assert_eq!(told(5, None), [1, 1]);
        assert!(divide(1, None, &[&small, &large]).is_err());
    }

    #[test]
    fn long_lists_are_sent_in_pieces() {
        let lines: Vec<String> = (0..3).map(|_| "x".repeat(LINES_BYTES / 2)).collect();
        assert_eq!(pieces(&lines).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [2, 1]);
        let lines = vec![String::new(); LINES + 1];
        assert_eq!(pieces(&lines).iter().map(|piece| piece.len()).collect::<Vec<_>>(), [LINES, 1]);
    }
}
