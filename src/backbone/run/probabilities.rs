//! What a model answers.

use crate::backbone::graph::prepared::Scores;

/// Class scores turned into probabilities, in a buffer that stays.
#[derive(Debug)]
pub(crate) struct Probabilities {
    values: Vec<f32>,
    classes: usize,
    meaning: Scores,
}

impl Probabilities {
    pub(crate) fn new(classes: usize, meaning: Scores) -> Self {
        Self { values: Vec::new(), classes, meaning }
    }

    pub(super) fn fill(&mut self, scores: &[f32]) -> &[f32] {
        self.values.clear();
        self.values.extend_from_slice(scores);
        if self.meaning == Scores::Logits {
            self.values.chunks_exact_mut(self.classes.max(1)).for_each(softmax);
        }
        &self.values
    }
}

/// NaN among the scores makes the whole row NaN: such a row is sure of nothing.
fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    for value in row.iter_mut() {
        *value = (*value - top).exp();
        sum += *value;
    }
    for value in row {
        *value /= sum;
    }
}
