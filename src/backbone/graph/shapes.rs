//! Types and shapes of a graph's tensors, and the values of its shape arithmetic, as seen when it ran at batch 1 and 2. Pure.

use std::collections::HashMap;

/// What was seen of one tensor. `None` at batch 2: the graph does not run at batch 2.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) element: i32,
    pub(crate) at_one: Vec<usize>,
    pub(crate) at_two: Option<Vec<usize>>,
    /// Values of short int64 vectors at batch 1 and 2.
    pub(crate) integers: Option<(Vec<i64>, Vec<i64>)>,
    /// Whether an f32 tensor held only numbers at batch 1.
    pub(crate) finite: bool,
}

impl Seen {
    /// The dims of one row, if the first dim is the batch and the others do not depend on it.
    pub(crate) fn row_dims(&self) -> Option<&[usize]> {
        let (first, rest) = self.at_one.split_first()?;
        match &self.at_two {
            Some(two) => (*first == 1 && two.first() == Some(&2) && two.get(1..) == Some(rest)).then_some(rest),
            None => (*first == 1).then_some(rest),
        }
    }
}

/// All tensors of a graph that nodes make, by name.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    pub(crate) seen: HashMap<String, Seen>,
    /// False: the graph takes one row at a time.
    pub(crate) batches: bool,
}

impl Shapes {
    /// Forgets what was seen at batch 2: the graph is to be run one row at a time.
    pub(crate) fn row_by_row(&mut self) {
        self.batches = false;
        self.seen.values_mut().for_each(|seen| seen.at_two = None);
    }

    /// Dims at batch 1.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.seen.get(name).map(|seen| seen.at_one.as_slice())
    }
}
