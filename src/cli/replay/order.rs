//! In which order a recorded stream is played. Pure.

use anyhow::bail;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// Cameras among which bursts are dealt.
const CAMERAS: usize = 6;
/// Frames that a camera shows of one class before it turns to another.
const BURST: usize = 100;

/// Order of the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// As the file has them.
    File,
    /// At random.
    Shuffle,
    /// Six cameras in turn, each showing one class for 100 frames; needs labels.
    Bursts,
}

/// A permutation of the frames' numbers. `labels[i]` is the class of frame i.
///
/// # Errors
/// When bursts are asked for and a label is missing.
pub(super) fn arrange(order: Order, labels: &[Option<usize>], seed: u64) -> anyhow::Result<Vec<usize>> {
    let mut numbers: Vec<usize> = (0..labels.len()).collect();
    let mut rng = StdRng::seed_from_u64(seed);
    match order {
        Order::File => {}
        Order::Shuffle => numbers.shuffle(&mut rng),
        Order::Bursts => {
            numbers.shuffle(&mut rng);
            let Some(classes) = labels.iter().copied().collect::<Option<Vec<usize>>>() else {
                bail!("--order bursts needs a class for every frame: give --labels, or sub-folders named by class");
            };
            numbers = bursts(&numbers, &classes, &mut rng);
        }
    }
    Ok(numbers)
}

fn bursts(numbers: &[usize], classes: &[usize], rng: &mut StdRng) -> Vec<usize> {
    let mut stock: Vec<Vec<usize>> = vec![Vec::new(); classes.iter().max().map_or(0, |top| top + 1)];
    for number in numbers {
        stock[classes[*number]].push(*number);
    }
    let mut shows: [(usize, usize); CAMERAS] = [(0, 0); CAMERAS];
    let mut order = Vec::with_capacity(numbers.len());
    while order.len() < numbers.len() {
        for (class, left) in &mut shows {
            if *left == 0 || stock[*class].is_empty() {
                let open: Vec<usize> = (0..stock.len()).filter(|class| !stock[*class].is_empty()).collect();
                if open.is_empty() {
                    break;
                }
                (*class, *left) = (open[rng.random_range(0..open.len())], BURST);
            }
            order.extend(stock[*class].pop());
            *left -= 1;
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_order_plays_each_frame_once(classes in prop::collection::vec(0_usize..5, 1..400), seed: u64) {
            let labels: Vec<Option<usize>> = classes.iter().copied().map(Some).collect();
            for order in [Order::File, Order::Shuffle, Order::Bursts] {
                let mut played = arrange(order, &labels, seed).expect("all have labels");
                played.sort_unstable();
                prop_assert_eq!(played, (0..classes.len()).collect::<Vec<_>>());
            }
        }
    }
}
