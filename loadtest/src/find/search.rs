//! Which value is tried next: doubling up to the first that fails, then halving what is between.

/// The lowest value that is tried, as a part of the first one, where not even that holds.
const LEAST_PART: f64 = 1.0 / 1_024.0;

/// The state of a search. Order of calls: [`Search::next`], [`Search::tried`], and again until there is no
/// next.
pub(super) struct Search {
    first: f64,
    most: f64,
    /// The part of the lowest value that failed by which the highest that held may be below it.
    precision: f64,
    /// Only whole numbers are tried.
    whole: bool,
    /// The highest value that held, and the lowest that did not.
    pub(super) held: Option<f64>,
    pub(super) failed: Option<f64>,
}

impl Search {
    pub(super) fn new(first: f64, most: f64, precision: f64, whole: bool) -> Search {
        let round = |value: f64| if whole { value.round().max(1.0) } else { value };
        Search { first: round(first), most: round(most), precision, whole, held: None, failed: None }
    }

    /// The value to try; `None` when the search is over.
    pub(super) fn next(&self) -> Option<f64> {
        let value = match (self.held, self.failed) {
            (None, None) => return Some(self.first),
            (Some(held), None) if held >= self.most => return None,
            (Some(held), None) => return Some((held * 2.0).min(self.most)),
            (held, Some(failed)) => {
                let held = held.unwrap_or(0.0);
                if failed - held <= failed * self.precision {
                    return None;
                }
                (held + failed) / 2.0
            }
        };
        let value = if self.whole { value.floor() } else { value };
        let is_new = Some(value) != self.held && Some(value) != self.failed;
        (is_new && value > 0.0 && value >= self.first * LEAST_PART).then_some(value)
    }

    pub(super) fn tried(&mut self, value: f64, held: bool) {
        match held {
            true => self.held = Some(self.held.map_or(value, |before| before.max(value))),
            false => self.failed = Some(self.failed.map_or(value, |before| before.min(value))),
        }
    }

    /// Why there is no next value.
    pub(super) fn ended(&self) -> String {
        match (self.held, self.failed) {
            (Some(_), None) => "the search ended at --most: everything held".to_owned(),
            (Some(_), Some(_)) => "the search ended at --precision".to_owned(),
            (None, _) => "the search ended below: even the smallest step did not hold".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches among values of which those up to `limit` hold; the values in turn.
    fn search(limit: f64, first: f64, most: f64, precision: f64, whole: bool) -> (Search, Vec<f64>) {
        let (mut search, mut tried) = (Search::new(first, most, precision, whole), Vec::new());
        while let Some(value) = search.next() {
            search.tried(value, value <= limit);
            tried.push(value);
            assert!(tried.len() < 100, "{tried:?}");
        }
        (search, tried)
    }

    #[test]
    fn it_doubles_and_then_halves_what_is_between() {
        let (search, tried) = search(700.0, 100.0, 1e6, 0.1, true);
        assert_eq!(tried, [100.0, 200.0, 400.0, 800.0, 600.0, 700.0, 750.0]);
        assert_eq!((search.held, search.failed), (Some(700.0), Some(750.0)));
    }

    #[test]
    fn it_ends_at_the_most_and_below_the_first() {
        let (found, tried) = search(1e9, 100.0, 350.0, 0.1, true);
        assert_eq!((tried, found.failed), (vec![100.0, 200.0, 350.0], None));
        assert!(found.ended().contains("--most"));
        let (found, tried) = search(30.0, 100.0, 1e6, 0.1, true);
        assert_eq!(tried[..3], [100.0, 50.0, 25.0]);
        assert!(found.held.is_some_and(|held| (27.0..=30.0).contains(&held)));
        let (found, _) = search(0.0, 5.0, 1e6, 0.1, true);
        assert_eq!((found.held, found.failed), (None, Some(1.0)));
        assert!(found.ended().contains("did not hold"));
    }

    #[test]
    fn the_answer_is_as_near_as_was_asked_for() {
        for limit in [1.0, 3.0, 17.0, 999.0, 12_345.0, 750_000.0] {
            for (precision, whole) in [(0.01, true), (0.1, true), (0.5, true), (0.01, false), (0.2, false)] {
                let (found, _) = search(limit, 10.0, 1e6, precision, whole);
                let (held, failed) = (found.held.unwrap(), found.failed.unwrap());
                assert!(held <= limit && limit < failed, "{limit}: {held} to {failed}");
                let near = failed - held <= (failed * precision).max(if whole { 1.0 } else { 0.0 });
                assert!(near, "{limit} at {precision}: {held} to {failed}");
            }
        }
    }
}
