//! Numbers of one kind, given out and taken back.

use std::collections::BTreeSet;

/// How many numbers between used ones are remembered; the next start finds the others.
const MOST_GAPS: usize = 1 << 16;

/// Which numbers of a kind are in use.
#[derive(Debug)]
pub(super) struct Numbers {
    /// The first of them.
    first: u32,
    /// How many were given out so far.
    given: u32,
    spare: Vec<u32>,
}

impl Numbers {
    /// All numbers from the first on are there to be given out.
    pub(super) fn from(first: u32) -> Self {
        Self { first, given: 0, spare: Vec::new() }
    }

    /// Gives a number out.
    pub(super) fn take(&mut self) -> u32 {
        self.spare.pop().unwrap_or_else(|| {
            self.given += 1;
            self.first + self.given - 1
        })
    }

    /// Takes one back.
    pub(super) fn give_back(&mut self, number: u32) {
        self.spare.push(number);
    }

    /// Takes stock of those that an earlier run gave out.
    pub(super) fn adopt(&mut self, used: &BTreeSet<u32>) {
        self.given = used.last().map_or(0, |last| last - self.first + 1);
        let gaps = (self.first..self.first + self.given).rev().filter(|number| !used.contains(number));
        self.spare = gaps.take(MOST_GAPS).collect();
    }
}
