//! The frames of a batch, as a model is fed.

/// The input buffer; grows to the largest batch and stays.
#[derive(Debug)]
pub(crate) struct Frames {
    pub(super) values: Vec<f32>,
    row: usize,
    /// Rows that have run.
    pub(super) gone: usize,
}

impl Frames {
    pub(crate) fn new(row: usize) -> Self {
        Self { values: Vec::new(), row, gone: 0 }
    }

    pub(super) fn load(&mut self, rows: usize) -> &mut [f32] {
        self.gone = 0;
        let length = rows * self.row;
        if self.values.len() < length {
            self.values.resize(length, 0.0);
        }
        self.values.get_mut(..length).unwrap_or_default()
    }
}
