//! The proof by simulation: does what is certified hold, and how soon are the exits off when it no longer does?
//!
//! Every stream goes through the code that serves: training, looks, publication, records, registry, path. The truth of a
//! certificate is taken from 20,000 further frames of the same world. Prints three tables. `-- 40` runs 40 streams. The
//! worlds are small, so heads and youth are too; promise, looks, audits and watch are those of the default settings.

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its figures and fails by panicking")]

#[path = "../tests/learn_support/mod.rs"]
mod learn_support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use learn_support::{Fleet, World, proof_stream, quick, true_risk};
use offramp::learn::{LearnConfig, Unpaced};

fn main() {
    let streams = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(200);
    certificates(streams);
    calm(streams, 50_000);
    drift(streams / 4);
}

/// Every stream by its seed, on all cores; what a stream gives depends on nothing but its seed.
fn each<T: Send>(streams: u64, stream: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (next, results) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= streams {
                        return;
                    }
                    let result = stream(seed);
                    results.lock().expect("no stream panics").push(result);
                }
            });
        }
    });
    results.into_inner().expect("no stream panics")
}

fn certificates(streams: u64) {
    let results = each(streams, |seed| proof_stream(seed, 3000, 20_000));
    let certificates: u32 = results.iter().map(|result| result.0).sum();
    let broken: u32 = results.iter().map(|result| result.1).sum();
    let unlucky = results.iter().filter(|result| result.1 > 0).count();
    let worst = results.iter().map(|result| result.2).fold(0.0, f64::max);
    println!("certificates at epsilon 1 %, delta 5 %");
    println!("| streams | certificates | true risk over 1 % | streams with such a one | largest true risk |");
    println!("|---|---|---|---|---|");
    let share = 100.0 * f64::from(broken) / f64::from(certificates.max(1));
    println!("| {streams} | {certificates} | {broken} ({share:.1} %) | {unlucky} | {:.2} % |\n", worst * 100.0);
}

/// A stream that has learned what it may; `None`: nothing could be certified.
fn settled(seed: u64) -> Option<(World, Fleet)> {
    let mut world = World::new(seed * 31 + 7);
    let mut fleet = Fleet::new(&world, LearnConfig { seed, ..quick() });
    for _ in 0..4000 {
        let _ = fleet.step(&mut world, 0.0, &mut Unpaced);
    }
    (!fleet.set.exits().is_empty()).then_some((world, fleet))
}

/// How often the watch cries wolf: streams that do not change.
fn calm(streams: u64, frames: u64) {
    let alarms = each(streams, |seed| {
        let (mut world, mut fleet) = settled(seed)?;
        let mut alarms = 0_u64;
        for _ in 0..frames {
            let before = fleet.set.exits().is_empty();
            let adopted = fleet.step(&mut world, 0.0, &mut Unpaced);
            alarms += u64::from(!before && adopted.iter().any(|set| set.exits().is_empty()));
        }
        Some(alarms)
    });
    let alarms: Vec<u64> = alarms.into_iter().flatten().collect();
    let (sum, million) = (alarms.iter().sum::<u64>(), alarms.len() as f64 * frames as f64 / 1e6);
    println!("false alarms without a change, at most one in a million frames promised");
    println!("| streams | frames, millions | alarms | a million frames |");
    println!("|---|---|---|---|");
    println!("| {} | {million:.1} | {sum} | {:.2} |\n", alarms.len(), sum as f64 / million);
}

/// One stream that changes after it has settled: `(disagreement after the change, frames until off, wrong answers)`.
fn change(seed: u64, shift: f64, gradual: u64, most: u64) -> Option<(f64, Option<u64>, u64)> {
    let (mut world, mut fleet) = settled(seed)?;
    let mut truth = World::new(seed + 5_000_000);
    truth.shift = shift;
    let disagreement = true_risk(&fleet.set, &mut truth, 20_000);
    fleet.reset_counts();
    for frame in 0..most {
        world.shift = if gradual == 0 { shift } else { shift * (frame as f64 / gradual as f64).min(1.0) };
        // They may be on again before the next frame: audits that came after the change have certified others.
        if fleet.step(&mut world, 0.0, &mut Unpaced).iter().any(|set| set.exits().is_empty()) {
            return Some((disagreement, Some(frame + 1), fleet.wrong));
        }
    }
    Some((disagreement, None, fleet.wrong))
}

fn drift(streams: u64) {
    println!("exits off after a change, {streams} streams each, at most 40,000 frames");
    println!(
        "| change | noise | disagreement | off | frames, median | frames, 9 in 10 | wrong answers, median | 9 in 10 |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let cases = [(0.0, 0), (0.25, 0), (0.5, 0), (1.0, 0), (2.0, 0), (1.0, 4000), (2.0, 4000)];
    for (shift, gradual) in cases {
        let runs: Vec<_> = each(streams, |seed| change(seed, shift, gradual, 40_000)).into_iter().flatten().collect();
        let mean = runs.iter().map(|run| run.0).sum::<f64>() / runs.len().max(1) as f64;
        let mut delays: Vec<u64> = runs.iter().filter_map(|run| run.1).collect();
        let mut wrong: Vec<u64> = runs.iter().map(|run| run.2).collect();
        delays.sort_unstable();
        wrong.sort_unstable();
        let at = |list: &[u64], share: f64| {
            list.get((list.len() as f64 * share) as usize).map_or("-".into(), u64::to_string)
        };
        println!(
            "| {} | +{:.0} % | {:.2} % | {} of {} | {} | {} | {} | {} |",
            if gradual == 0 { "abrupt" } else { "over 4,000 frames" },
            shift * 100.0,
            mean * 100.0,
            delays.len(),
            runs.len(),
            at(&delays, 0.5),
            at(&delays, 0.9),
            at(&wrong, 0.5),
            at(&wrong, 0.9),
        );
    }
}
