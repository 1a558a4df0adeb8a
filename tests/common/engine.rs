//! Running a backbone on noise, for its tests.

use offramp::cascade::{EngineError, Segments, StepOutput, through};

/// Frames of noise in [0, 1), each of its own.
pub fn frames(rows: usize, length: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / 16_777_216.0
    };
    (0..rows * length).map(next).collect()
}

/// Runs all rows through all segments; gives features by exit and the probabilities.
pub fn run_through(chain: &mut impl Segments, input: &[f32], rows: usize) -> (Vec<Vec<f32>>, Vec<f32>) {
    chain.load(rows).copy_from_slice(input);
    let (mut features, mut probabilities) = (vec![Vec::new(); chain.exits().len()], Vec::new());
    let run = through(chain, rows, |chain, segment, rows| {
        match chain.run(segment, rows)? {
            StepOutput::Features(values) => features[segment].extend_from_slice(values),
            StepOutput::Probabilities(values) => probabilities.extend_from_slice(values),
        }
        Ok::<(), EngineError>(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    (features, probabilities)
}

/// Within `tolerance` of the largest value.
pub fn assert_close(a: &[f32], b: &[f32], tolerance: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: lengths");
    let top = b.iter().fold(1e-3_f32, |top, value| top.max(value.abs()));
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * top, "{what}: value {at} is {a}, not {b}");
    }
}
