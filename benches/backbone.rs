//! What cutting costs: the demo model cut at three exits against the uncut one, one thread, at batch 1, 8 and 32.
//!
//! Needs ONNX Runtime (`make runtime`). `offramp inspect` times both in turns and gives the ratio; this shows each alone.

use std::path::Path;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use offramp::backbone::{Backbone, Chain, LoadOptions};
use offramp::cascade::{Auditor, Segments};
use offramp::plan::ExitId;

fn run_through(chain: &mut Chain, rows: usize) {
    for segment in 0..=chain.exits().len() {
        chain.run(segment, rows).expect("the demo model runs");
    }
}

fn backbone(criterion: &mut Criterion) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fashion-resnet18");
    let backbone = Backbone::load(&model, &LoadOptions::default()).expect("the demo model loads");
    let mut group = criterion.benchmark_group("backbone");
    for rows in [1, 8, 32] {
        group.throughput(Throughput::Elements(rows as u64));
        for (name, exits) in [("whole", vec![]), ("three cuts", vec![ExitId(2), ExitId(4), ExitId(6)])] {
            let mut chain = backbone.chain(&exits).expect("the exits are there");
            chain.load(rows).fill(0.5);
            group.bench_function(BenchmarkId::new(name, rows), |bench| bench.iter(|| run_through(&mut chain, rows)));
        }
        let mut auditor = backbone.auditor().expect("the model loads");
        auditor.load(rows).fill(0.5);
        let run = |auditor: &mut offramp::backbone::Audited| auditor.run(rows).map(drop).expect("the demo model runs");
        group.bench_function(BenchmarkId::new("audit", rows), |bench| bench.iter(|| run(&mut auditor)));
    }
    group.finish();
}

criterion_group!(benches, backbone);
criterion_main!(benches);
