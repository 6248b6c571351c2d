//! What failed tests said, for the end of a long output.

/// The lines of one test that are shown again. The first ones say what is wrong; behind them may be a whole
/// trace.
const LINES: usize = 40;

/// Gathers what each failed test printed, from the sections that a test program prints behind its tests.
#[derive(Default)]
pub(crate) struct Failures {
    is_in_section: bool,
    lines: Vec<String>,
    /// Lines of the section that is being read.
    taken: usize,
}

impl Failures {
    /// Takes the next line of a program's output.
    pub(crate) fn add(&mut self, line: &str) {
        if line.starts_with("---- ") && line.ends_with(" ----") {
            (self.is_in_section, self.taken) = (true, 0);
        } else if line == "failures:" || line.starts_with("test result: ") {
            // The list of names, behind the sections.
            self.is_in_section = false;
        }
        if !self.is_in_section || line.is_empty() {
            return;
        }
        self.taken += 1;
        match self.taken {
            ..=LINES => self.lines.push(line.to_owned()),
            count if count == LINES + 1 => self.lines.push("(more of it is above)".to_owned()),
            _ => {}
        }
    }

    /// The sections, one after the other.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_tests_said_is_kept_and_nothing_else() {
        let mut failures = Failures::default();
        let output = "running 2 tests\ntest a ... FAILED\ntest b ... ok\n\nfailures:\n\n---- a stdout ----\n\n\
                      thread 'a' panicked at here:\nit is wrong\n\n\nfailures:\n    a\n\n\
                      test result: FAILED. 1 passed; 1 failed\nrunning 1 test\n---- c stdout ----\nalso wrong\n";
        output.lines().for_each(|line| failures.add(line));
        let wanted = ["---- a stdout ----", "thread 'a' panicked at here:", "it is wrong"];
        assert_eq!(failures.lines()[..3], wanted);
        assert_eq!(failures.lines()[3..], ["---- c stdout ----", "also wrong"]);
    }

    #[test]
    fn a_long_trace_is_cut() {
        let mut failures = Failures::default();
        failures.add("---- a stdout ----");
        (0..1000).for_each(|number| failures.add(&number.to_string()));
        failures.add("---- b stdout ----");
        assert_eq!(failures.lines().len(), LINES + 2);
        assert_eq!(failures.lines()[LINES - 1..], ["38", "(more of it is above)", "---- b stdout ----"]);
    }
}
