//! The operator on the terminal.

use std::io::{self, BufRead as _};

use crate::cli::output;
use crate::harness::conformance::{Operator, OperatorReply, OperatorTask};

/// Asks whoever sits at the terminal.
#[derive(Debug)]
pub(super) struct AskedOperator {
    /// How many questions were asked.
    asked: usize,
    /// About how many there will be.
    expected: usize,
}

impl AskedOperator {
    pub(super) const fn new(expected: usize) -> Self {
        Self { asked: 0, expected }
    }

    /// Which question this is: `2 of about 7`. Repeated checks may ask more than was expected.
    fn place(&self) -> String {
        if self.asked > self.expected {
            self.asked.to_string()
        } else {
            format!("{} of about {}", self.asked, self.expected)
        }
    }
}

impl Operator for AskedOperator {
    fn ask(&mut self, task: &OperatorTask) -> OperatorReply {
        self.asked += 1;
        output::note(format!("question {}: {task}", self.place()));
        if self.asked == 1 {
            output::note("answer y (done, or yes), n (no) or s (skip), and press Return");
        }
        loop {
            match line().as_deref() {
                Some("y" | "yes" | "done") => return OperatorReply::Yes,
                Some("n" | "no") => return OperatorReply::No,
                // The end of the input skips everything that follows.
                Some("s" | "skip") | None => return OperatorReply::Skip,
                Some("") => {}
                Some(_) => output::note("y, n or s?"),
            }
        }
    }
}

/// Asks a question. Anything but a yes is a no.
pub(super) fn confirmed(question: &str) -> bool {
    output::note(format!("{question} (yes/no)"));
    matches!(line().as_deref(), Some("y" | "yes"))
}

/// The next line of standard input in lower case; `None` at its end.
fn line() -> Option<String> {
    let mut text = String::new();
    match io::stdin().lock().read_line(&mut text) {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(text.trim().to_ascii_lowercase()),
    }
}
