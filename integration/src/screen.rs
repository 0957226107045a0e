//! What the demo shows: headings, lines, and whether a claim held. In colour where somebody looks.

use std::{
    fmt::{self, Display},
    io::{self, Write},
};

/// Where the demo writes: stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Whether to colour.
    pub is_coloured: bool,
}

impl Screen {
    /// Says what is going to be shown.
    pub fn heading(self, text: &str) {
        show(format_args!("\n{}", self.paint("1", text)));
    }

    /// Shows what came back.
    pub fn line(self, text: impl Display) {
        show(format_args!("  {text}"));
    }

    /// Says that a claim held.
    pub fn held(self, claim: &str) {
        show(format_args!("  {} {claim}", self.paint("32", "✓")));
    }

    /// Says that a claim did not hold: what was expected, and what came instead.
    pub fn broken(self, expected: &str, came: impl Display) {
        show(format_args!("  {} expected: {expected}", self.paint("31", "✗")));
        show(format_args!("    but: {came}"));
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes a line. Nobody may be there to read it (`| head`): what is shown goes on all the same.
pub(crate) fn show(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}
