//! A session run on a batch, whole or in parts.

use std::ops::Range;

use super::error::SessionError;
use super::session::Session;
use super::tensor::{Buffer, Feed, Held};

/// A loaded graph run on a batch: in parts of as many rows as it takes, or as it runs best. Its outputs are some that are
/// shown as numbers, and in front of them possibly one that is carried on.
#[derive(Debug)]
pub(crate) struct Runner {
    session: Session,
    /// Dims of one row of its input.
    dims: Vec<usize>,
    /// Values per row of each shown output.
    widths: Vec<usize>,
    batches: bool,
    /// Most rows in one part.
    most: usize,
    /// What was made last, row by row, where the graph takes no batches; where it does, the session has it.
    by_row: Vec<Vec<Buffer>>,
    /// Shown outputs of several parts, put together.
    gathered: Option<Vec<Vec<f32>>>,
}

/// Where a runner's rows come from, and the first of them.
pub(super) enum Source<'a> {
    Frames(&'a [f32], usize),
    Before(&'a Runner, usize),
    Held(&'a Held, usize),
}

impl Runner {
    /// `most` rows are run at a time; one, where the graph takes no batches.
    pub(crate) fn new(session: Session, dims: Vec<usize>, widths: Vec<usize>, batches: bool, most: usize) -> Self {
        let most = if batches { most.max(1) } else { 1 };
        Self { session, dims, widths, batches, most, by_row: Vec::new(), gathered: None }
    }

    pub(super) fn row(&self) -> usize {
        self.dims.iter().product()
    }

    pub(super) fn run(&mut self, source: &Source<'_>, rows: usize) -> Result<(), SessionError> {
        // The old tensors go first, so that the arena can give their memory to the new ones.
        self.by_row.clear();
        if self.batches && rows <= self.most {
            self.gathered = None;
            return self.run_rows(source, 0, rows);
        }
        let mut gathered = self.gathered.take().unwrap_or_default();
        gathered.resize(self.widths.len(), Vec::new());
        gathered.iter_mut().for_each(Vec::clear);
        for first in (0..rows).step_by(self.most) {
            self.run_rows(source, first, self.most.min(rows - first))?;
            for (at, gathered) in gathered.iter_mut().enumerate() {
                gathered.extend_from_slice(self.newest(at)?);
            }
        }
        self.gathered = Some(gathered);
        Ok(())
    }

    fn run_rows(&mut self, source: &Source<'_>, at: usize, rows: usize) -> Result<(), SessionError> {
        let missing = || SessionError::Ort("the segment before has not run on these rows".to_owned());
        let row = self.row();
        let feed = match source {
            Source::Frames(frames, first) => Feed::Frames(frames.get((first + at) * row..).ok_or_else(missing)?),
            Source::Before(before, first) => {
                let (list, from) = before.lies(first + at);
                Feed::Rows(list.first().ok_or_else(missing)?, from * row)
            }
            Source::Held(held, first) => Feed::Held(held, (first + at) * row),
        };
        // Row by row every row's outputs stay until the next batch: none may be written over.
        let made = if self.batches {
            self.session.run_again(&feed, rows, &self.dims)?;
            self.session.made()
        } else {
            self.by_row.push(self.session.run(&feed, rows, &self.dims)?);
            self.by_row.last().map_or(&[][..], Vec::as_slice)
        };
        for (buffer, width) in made.iter().rev().zip(self.widths.iter().rev()) {
            if buffer.shape().first() != Some(&rows) || buffer.shape().iter().product::<usize>() != rows * width {
                return Err(SessionError::Ort(format!("gave {:?} for {rows} rows of {width}", buffer.shape())));
            }
        }
        Ok(())
    }

    /// Where a row of what was made last lies: in these tensors, so many rows behind their beginning.
    fn lies(&self, row: usize) -> (&[Buffer], usize) {
        if self.batches {
            return (self.session.made(), row);
        }
        (self.by_row.get(row).map_or(&[], Vec::as_slice), 0)
    }

    /// Where these rows of what is carried on lie: of a batch in one tensor, else each in its own.
    pub(super) fn carried(&self, rows: Range<usize>) -> impl Iterator<Item = (&Buffer, Range<usize>)> {
        let step = if self.batches { rows.len().max(1) } else { 1 };
        rows.step_by(step).filter_map(move |first| {
            let (list, from) = self.lies(first);
            Some((list.first()?, from..from + step))
        })
    }

    /// The values of a shown output, `rows x width`.
    pub(super) fn shown(&self, at: usize) -> Result<&[f32], SessionError> {
        match &self.gathered {
            Some(gathered) => Ok(gathered.get(at).map_or(&[], Vec::as_slice)),
            None => self.newest(at),
        }
    }

    /// How many outputs are shown.
    pub(super) fn shown_count(&self) -> usize {
        self.widths.len()
    }

    /// The same of the newest part alone.
    fn newest(&self, at: usize) -> Result<&[f32], SessionError> {
        let (list, _) = self.lies(self.by_row.len().saturating_sub(1));
        let first = list.len().saturating_sub(self.widths.len());
        list.get(first + at).map_or(Ok(&[]), Buffer::floats)
    }

    /// Keeps these rows of what is carried on; `row` elements each.
    pub(super) fn compact(&mut self, row: usize, keep: &[usize]) -> Result<(), SessionError> {
        if self.batches {
            let carried = self.session.made_mut().first_mut();
            return carried.map_or(Ok(()), |buffer| buffer.compact(row, keep));
        }
        let made = self.by_row.len();
        keep.iter().enumerate().filter(|(_, from)| **from < made).for_each(|(to, &from)| self.by_row.swap(to, from));
        Ok(())
    }
}
