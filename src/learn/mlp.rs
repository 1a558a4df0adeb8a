//! The network that is trained: `Linear + ReLU + Linear`, its gradients, and Adam. Arithmetic only.
//!
//! All buffers are made once per training; a step allocates nothing. Matrices are row-major.

use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

use crate::learn::rng::Rng;

/// Weights of both layers, one after the other: `w1 [d, h] | b1 [h] | w2 [h, k] | b2 [k]`.
#[derive(Debug, Clone)]
pub(crate) struct Mlp {
    pub(crate) inputs: usize,
    pub(crate) hidden: usize,
    pub(crate) outputs: usize,
    pub(crate) weights: Vec<f32>,
}

/// Where each part lies in [`Mlp::weights`].
#[derive(Debug, Clone, Copy)]
struct Layout {
    b1: usize,
    w2: usize,
    b2: usize,
    end: usize,
}

impl Mlp {
    /// He-uniform first layer, small second layer, zero biases.
    pub(crate) fn new(inputs: usize, hidden: usize, outputs: usize, rng: &mut Rng) -> Self {
        let mut mlp = Self { inputs, hidden, outputs, weights: Vec::new() };
        let at = mlp.layout();
        mlp.weights = vec![0.0; at.end];
        let mut fill = |range: std::ops::Range<usize>, limit: f32| {
            mlp.weights[range].iter_mut().for_each(|weight| *weight = (rng.unit() * 2.0 - 1.0) * limit);
        };
        fill(0..at.b1, (6.0 / inputs as f32).sqrt() * 0.5);
        fill(at.w2..at.b2, (3.0 / hidden as f32).sqrt());
        mlp
    }

    fn layout(&self) -> Layout {
        let b1 = self.inputs * self.hidden;
        let w2 = b1 + self.hidden;
        let b2 = w2 + self.hidden * self.outputs;
        Layout { b1, w2, b2, end: b2 + self.outputs }
    }

    pub(crate) fn w1(&self) -> &[f32] {
        &self.weights[..self.layout().b1]
    }

    pub(crate) fn b1(&self) -> &[f32] {
        &self.weights[self.layout().b1..self.layout().w2]
    }

    pub(crate) fn w2(&self) -> &[f32] {
        &self.weights[self.layout().w2..self.layout().b2]
    }

    pub(crate) fn b2(&self) -> &[f32] {
        &self.weights[self.layout().b2..]
    }
}

/// Buffers for minibatches of up to `rows` rows.
#[derive(Debug)]
pub(crate) struct Tape {
    /// Standardised features, `rows x d`; filled by the caller.
    pub(crate) inputs: Vec<f32>,
    /// Target distribution, `rows x k`; filled by the caller, every row sums to 1.
    pub(crate) targets: Vec<f32>,
    /// What outputs are divided by before they are held against the targets.
    temperature: f32,
    hidden: Vec<f32>,
    outputs: Vec<f32>,
    hidden_gradient: Vec<f32>,
    /// Gradient of the mean loss, laid out like [`Mlp::weights`].
    pub(crate) gradient: Vec<f32>,
}

impl Tape {
    pub(crate) fn new(mlp: &Mlp, rows: usize, temperature: f32) -> Self {
        Self {
            inputs: vec![0.0; rows * mlp.inputs],
            targets: vec![0.0; rows * mlp.outputs],
            temperature,
            hidden: vec![0.0; rows * mlp.hidden],
            outputs: vec![0.0; rows * mlp.outputs],
            hidden_gradient: vec![0.0; rows * mlp.hidden],
            gradient: vec![0.0; mlp.weights.len()],
        }
    }

    /// Mean cross-entropy of the first `rows` rows to their targets (KL up to the targets' entropy) times the square of the
    /// temperature, and its gradient.
    pub(crate) fn run(&mut self, mlp: &Mlp, rows: usize) -> f32 {
        let (d, h, k) = (mlp.inputs, mlp.hidden, mlp.outputs);
        let at = mlp.layout();
        let inputs = view(&self.inputs, rows, d);
        spread(mlp.b1(), &mut self.hidden[..rows * h]);
        general_mat_mul(1.0, &inputs, &view(mlp.w1(), d, h), 1.0, &mut view_mut(&mut self.hidden, rows, h));
        self.hidden[..rows * h].iter_mut().for_each(|unit| *unit = unit.max(0.0));
        spread(mlp.b2(), &mut self.outputs[..rows * k]);
        let hidden = view(&self.hidden, rows, h);
        general_mat_mul(1.0, &hidden, &view(mlp.w2(), h, k), 1.0, &mut view_mut(&mut self.outputs, rows, k));
        let loss = softmax_gradient(&mut self.outputs[..rows * k], &self.targets[..rows * k], k, self.temperature);

        let (layer1, layer2) = self.gradient.split_at_mut(at.w2);
        let (w1, b1) = layer1.split_at_mut(at.b1);
        let (w2, b2) = layer2.split_at_mut(at.b2 - at.w2);
        let outputs = view(&self.outputs, rows, k);
        general_mat_mul(1.0, &hidden.t(), &outputs, 0.0, &mut view_mut(w2, h, k));
        column_sums(&self.outputs[..rows * k], b2);
        let mut hidden_gradient = view_mut(&mut self.hidden_gradient, rows, h);
        general_mat_mul(1.0, &outputs, &view(mlp.w2(), h, k).t(), 0.0, &mut hidden_gradient);
        for (gradient, unit) in self.hidden_gradient[..rows * h].iter_mut().zip(&self.hidden) {
            if *unit <= 0.0 {
                *gradient = 0.0;
            }
        }
        let hidden_gradient = view(&self.hidden_gradient, rows, h);
        general_mat_mul(1.0, &inputs.t(), &hidden_gradient, 0.0, &mut view_mut(w1, d, h));
        column_sums(&self.hidden_gradient[..rows * h], b1);
        loss
    }
}

#[allow(clippy::expect_used, reason = "the slice is cut to that length")]
fn view(values: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), &values[..rows * columns]).expect("the slice has rows * columns values")
}

#[allow(clippy::expect_used, reason = "the slice is cut to that length")]
fn view_mut(values: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, columns), &mut values[..rows * columns])
        .expect("the slice has rows * columns values")
}

fn spread(bias: &[f32], rows: &mut [f32]) {
    rows.chunks_exact_mut(bias.len()).for_each(|row| row.copy_from_slice(bias));
}

fn column_sums(rows: &[f32], sums: &mut [f32]) {
    sums.fill(0.0);
    for row in rows.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
}

/// Turns outputs into the gradient of the loss with respect to them; returns the loss. With its square as a factor the
/// gradient's size does not hang on the temperature (Hinton et al., arXiv 1503.02531).
fn softmax_gradient(outputs: &mut [f32], targets: &[f32], k: usize, temperature: f32) -> f32 {
    let mut loss = 0.0;
    let share = temperature * k as f32 / outputs.len() as f32;
    for (row, target) in outputs.chunks_exact_mut(k).zip(targets.chunks_exact(k)) {
        row.iter_mut().for_each(|output| *output /= temperature);
        let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|output| (output - top).exp()).sum();
        let log_sum = top + sum.ln();
        for (output, target) in row.iter_mut().zip(target) {
            loss += target * (log_sum - *output) * share * temperature;
            *output = ((*output - log_sum).exp() - target) * share;
        }
    }
    loss
}

/// Adam (Kingma and Ba 2015) with its usual constants.
#[derive(Debug)]
pub(crate) struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    pub(crate) fn new(mlp: &Mlp) -> Self {
        Self { first: vec![0.0; mlp.weights.len()], second: vec![0.0; mlp.weights.len()], steps: 0 }
    }

    pub(crate) fn step(&mut self, mlp: &mut Mlp, gradient: &[f32], step_size: f32) {
        const B1: f32 = 0.9;
        const B2: f32 = 0.999;
        self.steps += 1;
        let correct1 = step_size / (1.0 - B1.powi(self.steps));
        let correct2 = 1.0 / (1.0 - B2.powi(self.steps));
        let moments = self.first.iter_mut().zip(self.second.iter_mut());
        for ((weight, gradient), (first, second)) in mlp.weights.iter_mut().zip(gradient).zip(moments) {
            *first = B1 * *first + (1.0 - B1) * gradient;
            *second = B2 * *second + (1.0 - B2) * gradient * gradient;
            *weight -= correct1 * *first / ((*second * correct2).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::learn::rng::Rng;

    fn loss(mlp: &Mlp, tape: &mut Tape, rows: usize) -> f32 {
        tape.run(mlp, rows)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Method: central differences along random weights.
        #[test]
        fn gradients_are_those_of_finite_differences(seed in any::<u64>(), rows in 1usize..9, warm in any::<bool>()) {
            let mut rng = Rng::new(seed);
            let mut mlp = Mlp::new(7, 9, 4, &mut rng);
            let mut tape = Tape::new(&mlp, 8, if warm { 3.0 } else { 1.0 });
            let rows = rows.min(8);
            tape.inputs.iter_mut().for_each(|v| *v = rng.unit() * 2.0 - 1.0);
            for row in tape.targets.chunks_exact_mut(4) {
                row.iter_mut().for_each(|v| *v = rng.unit());
                let sum: f32 = row.iter().sum();
                row.iter_mut().for_each(|v| *v /= sum);
            }
            let here = loss(&mlp, &mut tape, rows);
            let gradient = tape.gradient.clone();
            for _ in 0..20 {
                let at = rng.below(mlp.weights.len());
                let (kept, step) = (mlp.weights[at], 1e-2);
                mlp.weights[at] = kept + step;
                let above = loss(&mlp, &mut tape, rows);
                mlp.weights[at] = kept - step;
                let below = loss(&mlp, &mut tape, rows);
                mlp.weights[at] = kept;
                let numeric = (above - below) / (2.0 * step);
                // Where a unit switches between the two sides there is no derivative: the curve has a kink.
                let bend = above + below - 2.0 * here;
                if bend.abs() > 2e-4 {
                    continue;
                }
                prop_assert!((numeric - gradient[at]).abs() < 1.2e-2, "{} against {}", numeric, gradient[at]);
            }
        }
    }

    #[test]
    fn adam_fits_a_rule() {
        let mut rng = Rng::new(3);
        let mut mlp = Mlp::new(2, 16, 2, &mut rng);
        let (mut tape, mut adam) = (Tape::new(&mlp, 32, 1.0), Adam::new(&mlp));
        let mut last = f32::MAX;
        for _ in 0..400 {
            for row in 0..32 {
                let (x, y) = (rng.unit() * 2.0 - 1.0, rng.unit() * 2.0 - 1.0);
                tape.inputs[row * 2..][..2].copy_from_slice(&[x, y]);
                let class = f32::from(u8::from(x * y > 0.0));
                tape.targets[row * 2..][..2].copy_from_slice(&[1.0 - class, class]);
            }
            last = tape.run(&mlp, 32);
            let gradient = std::mem::take(&mut tape.gradient);
            adam.step(&mut mlp, &gradient, 1e-2);
            tape.gradient = gradient;
        }
        assert!(last < 0.2, "loss {last}");
    }
}
