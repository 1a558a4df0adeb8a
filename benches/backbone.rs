//! What cutting costs: a model cut at three exits against the uncut one, one thread, at batch 1, 8 and 32; what lanes hold
//! in memory; and a head.
//!
//! Needs ONNX Runtime (`make runtime`). The demo model, and others with `BENCH_MODELS=path:path`. Each is timed alone by
//! criterion, and both in turns in one run (the line "split over whole"), which is the figure to go by on a busy machine.

#![allow(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its figures and fails by panicking")]

use std::path::{Path, PathBuf};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offramp::backbone::{Audited, Backbone, Chain, LoadOptions};
use offramp::cascade::{Auditor, Segments, through};
use offramp::engine::{Engine, unlearned_head, wave};
use offramp::heads::Scratch;
use offramp::plan::ExitId;

const BATCHES: [usize; 3] = [1, 8, 32];
const CUTS: usize = 3;

fn models() -> Vec<PathBuf> {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-resnet18");
    let more = std::env::var("BENCH_MODELS").unwrap_or_default();
    std::iter::once(demo).chain(more.split(':').filter(|path| !path.is_empty()).map(PathBuf::from)).collect()
}

/// Three exits, evenly over the candidates.
fn exits(backbone: &Backbone) -> Vec<ExitId> {
    let candidates = &backbone.plan().candidates;
    let pick = |k: usize| candidates.get((2 * k + 1) * candidates.len() / (2 * CUTS)).map(|point| point.exit);
    (0..CUTS).filter_map(pick).collect()
}

fn run_through(chain: &mut Chain, rows: usize) {
    chain.load(rows);
    through(chain, rows, |chain, segment, rows| chain.run(segment, rows).map(drop)).expect("the model runs");
}

/// Memory of this process in MiB; pages that sessions share count once (Linux' proportional set size).
fn resident_mib() -> f64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// What lanes hold: each a cut chain and an auditor, run once.
fn memory(backbone: &Backbone, exits: &[ExitId]) {
    let before = resident_mib();
    let mut lanes = Vec::new();
    let mut held = |wanted: usize| {
        while lanes.len() < wanted {
            let mut chain = backbone.chain(exits).expect("the model loads");
            let mut auditor = backbone.auditor().expect("the model loads");
            chain.load(1).fill(0.5);
            run_through(&mut chain, 1);
            auditor.load(1).fill(0.5);
            auditor.run(1).expect("the model runs");
            lanes.push((chain, auditor));
        }
        resident_mib() - before
    };
    println!("memory of lanes: one {:.0} MiB, four {:.0} MiB", held(1), held(4));
}

fn backbone(criterion: &mut Criterion) {
    for model in models() {
        let backbone = Engine::load(&model, &LoadOptions::default()).expect("the model loads").backbone;
        let exits = exits(&backbone);
        memory(&backbone, &exits);
        let name = model.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        for rows in BATCHES {
            let ratio = backbone.time(&exits, rows).expect("the model runs").ratio;
            println!("split over whole, batch {rows}, cut at {exits:?}: {ratio:.3} ({})", backbone.engine());
            group.throughput(Throughput::Elements(rows as u64));
            let chains = [("whole", backbone.uncut()), ("three cuts", backbone.chain(&exits))];
            for (name, chain) in chains {
                let mut chain = chain.expect("the model loads");
                chain.load(rows).fill(0.5);
                group
                    .bench_function(BenchmarkId::new(name, rows), |bench| bench.iter(|| run_through(&mut chain, rows)));
            }
            let mut auditor = backbone.auditor().expect("the model loads");
            auditor.load(rows).fill(0.5);
            let run = |auditor: &mut Audited| auditor.run(rows).map(drop).expect("the model runs");
            group.bench_function(BenchmarkId::new("audit", rows), |bench| bench.iter(|| run(&mut auditor)));
        }
        group.finish();
    }
}

/// A head of the greatest width, 128 hidden units and ten classes.
fn head(criterion: &mut Criterion) {
    const WIDTH: usize = 1024;
    let head = unlearned_head(WIDTH, 10).expect("sound numbers");
    let mut group = criterion.benchmark_group("head");
    for rows in BATCHES {
        let features: Vec<f32> = (0..rows * WIDTH).map(wave).collect();
        let mut scratch = Scratch::default();
        let mut sure = 0;
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(BenchmarkId::from_parameter(rows), |bench| {
            bench.iter(|| {
                head.judge_rows(rows, &features, &mut scratch, |_, v| sure += usize::from(v.confidence.get() > 0.5));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, backbone, head);
criterion_main!(benches);
