//! What the demo shows: headings, lines, and whether a claim held. In colour where somebody looks.

use std::fmt::Display;

/// Where the demo writes: stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Whether to colour.
    pub is_coloured: bool,
}

impl Screen {
    /// Says what is going to be shown.
    pub fn heading(self, text: &str) {
        println!("\n{}", self.paint("1", text));
    }

    /// Shows what came back.
    pub fn line(self, text: impl Display) {
        println!("  {text}");
    }

    /// Says that a claim held.
    pub fn held(self, claim: &str) {
        println!("  {} {claim}", self.paint("32", "✓"));
    }

    /// Says that a claim did not hold: what was expected, and what came instead.
    pub fn broken(self, expected: &str, came: impl Display) {
        println!("  {} expected: {expected}", self.paint("31", "✗"));
        println!("    but: {came}");
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
