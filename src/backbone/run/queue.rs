//! Rows between two segments.

use super::error::SessionError;
use super::runner::{Runner, Source};
use super::tensor::Held;

/// Rows that wait between two segments: those of the newest run where it made them, older ones put together in front.
#[derive(Debug, Default)]
pub(super) struct Queue {
    held: Held,
    held_rows: usize,
    /// Rows of the newest run that have not been held.
    pub(super) here: usize,
    /// How many of those in front, held ones if there are any, have gone on.
    gone: usize,
}

impl Queue {
    /// Puts what still lies where the segment before made it, `row` elements each, behind what is held: that place is needed.
    pub(super) fn hold(&mut self, before: &Runner, row: usize) -> Result<(), SessionError> {
        let gone = std::mem::take(&mut self.gone);
        let skipped = if self.held_rows > 0 { 0 } else { gone };
        self.held.drop_front((gone - skipped) * row);
        self.held_rows -= gone - skipped;
        let rows = std::mem::take(&mut self.here) - skipped;
        for (buffer, rows) in before.carried(skipped..skipped + rows) {
            self.held.append(buffer, rows.start * row, rows.len() * row)?;
        }
        self.held_rows += rows;
        Ok(())
    }

    /// Whether the first `rows` lie in one place.
    pub(super) fn in_one_place(&self, rows: usize) -> bool {
        self.held_rows == 0 || rows <= self.held_rows - self.gone
    }

    /// Where the first rows are, if they are not with the segment before.
    pub(super) fn front<'a>(&'a self, before: &'a Runner) -> Source<'a> {
        if self.held_rows > 0 { Source::Held(&self.held, self.gone) } else { Source::Before(before, self.gone) }
    }

    /// Takes the first `rows` out, which lie in one place.
    pub(super) fn take(&mut self, rows: usize, row: usize) {
        self.gone += rows;
        if self.held_rows > 0 && self.gone == self.held_rows {
            self.held.drop_front(self.gone * row);
            (self.held_rows, self.gone) = (0, 0);
        } else if self.held_rows == 0 && self.gone == self.here {
            (self.here, self.gone) = (0, 0);
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.held_rows + self.here - self.gone
    }
}
