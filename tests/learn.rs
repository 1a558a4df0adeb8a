//! Goal: the learner, whole, in a world where the truth is known: it certifies, publishes, adopts, notices a change,
//! switches off, and comes back. Method: frames of Gaussian classes, audited at the rate that the learner asks for; every
//! publication goes through its records and a registry, as between two workers.

mod learn_support;

use std::sync::Arc;

use learn_support::{Dice, World, costs};
use offramp::heads::{Accepted, HeadSet, PolicyState, Registry, Scratch};
use offramp::learn::{LearnConfig, Learner, Pace, Step, Unpaced};
use offramp::plan::Plan;

fn quick() -> LearnConfig {
    LearnConfig {
        hidden: 32,
        epochs: 12,
        epochs_warm: 6,
        first_training: 300,
        young_training: 900,
        ..LearnConfig::default()
    }
}

/// A worker's view: serves through a registry, audits by the rate in force.
struct Fleet {
    plan: Plan,
    learner: Learner,
    registry: Registry,
    set: Arc<HeadSet>,
    dice: Dice,
    position: i64,
    served: u64,
    exited: u64,
    wrong: u64,
    published: u64,
}

impl Fleet {
    fn new(world: &World, config: LearnConfig) -> Self {
        let plan = world.plan();
        let learner = Learner::new(&plan, costs(plan.candidates.len()), config);
        let registry = Registry::new(&plan, None);
        let set = Arc::new(HeadSet::empty());
        Self {
            plan,
            learner,
            registry,
            set,
            dice: Dice(99),
            position: 0,
            served: 0,
            exited: 0,
            wrong: 0,
            published: 0,
        }
    }

    fn step(&mut self, world: &mut World, turned: f64, pace: &mut dyn Pace) {
        let frame = world.frame(turned);
        self.served += 1;
        let rate = self.set.audit_rate();
        if self.dice.unit() < rate {
            self.position += 1;
            let sample = frame.sample(&self.plan, 1.0 / rate as f32);
            self.learner.observe(sample, self.position).expect("a sound sample");
        } else if let Some(answer) = self.set.path(&frame.rows(), &mut Scratch::default()) {
            self.exited += 1;
            self.wrong += u64::from(answer.class != frame.answer);
        }
        while let Some(publication) = self.learner.work(pace) {
            self.published += 1;
            for (key, value) in publication.records(&self.plan, None).expect("small heads") {
                if let Accepted::Adopt(set) = self.registry.accept(key.as_bytes(), Some(&value)).expect("our own") {
                    self.set = set;
                }
            }
            assert_eq!(
                self.set.version(),
                publication.sequence(),
                "a publication is complete by itself"
            );
        }
    }

    fn reset_counts(&mut self) {
        (self.served, self.exited, self.wrong) = (0, 0, 0);
    }
}

#[test]
fn it_certifies_and_serves_within_the_bound() {
    let mut world = World::new(1);
    let mut fleet = Fleet::new(&world, quick());
    let mut first = None;
    for frame in 0..4000 {
        fleet.step(&mut world, 0.0, &mut Unpaced);
        if first.is_none() && !fleet.set.exits().is_empty() {
            first = Some(frame);
        }
    }
    let status = fleet.learner.status();
    assert_eq!(status.state, PolicyState::Certified, "{status:?}");
    assert!(first.is_some_and(|frame| frame < 1500), "first exit at {first:?}");
    assert!(
        (fleet.set.audit_rate() - 0.01).abs() < 1e-9,
        "audits fall to the floor: {status:?}"
    );
    fleet.reset_counts();
    for _ in 0..4000 {
        fleet.step(&mut world, 0.0, &mut Unpaced);
    }
    let (hit, wrong) = (
        fleet.exited as f64 / fleet.served as f64,
        fleet.wrong as f64 / fleet.served as f64,
    );
    assert!(hit > 0.6, "hit rate {hit}");
    assert!(wrong < 0.015, "disagreement {wrong}");
    assert_eq!(fleet.learner.status().alarms, 0);
}

#[test]
fn a_change_switches_the_exits_off_and_they_come_back() {
    let mut world = World::new(2);
    let mut fleet = Fleet::new(&world, quick());
    for _ in 0..3000 {
        fleet.step(&mut world, 0.0, &mut Unpaced);
    }
    assert!(!fleet.set.exits().is_empty(), "{:?}", fleet.learner.status());
    let mut off = None;
    for frame in 0..20_000 {
        fleet.step(&mut world, 1.0, &mut Unpaced);
        if fleet.set.exits().is_empty() {
            off = Some(frame);
            break;
        }
    }
    assert!(off.is_some(), "{:?}", fleet.learner.status());
    assert_eq!(fleet.learner.status().alarms, 1);
    assert!((fleet.set.audit_rate() - 1.0).abs() < 1e-9);
    let mut back = None;
    for frame in 0..3000 {
        fleet.step(&mut world, 1.0, &mut Unpaced);
        if !fleet.set.exits().is_empty() {
            back = Some(frame);
            break;
        }
    }
    assert!(back.is_some(), "{:?}", fleet.learner.status());
}

/// Pauses at every opportunity.
struct Reluctant;

impl Pace for Reluctant {
    fn slice(&mut self) -> Step {
        Step::Pause
    }
}

#[test]
fn pausing_loses_no_work() {
    let mut world = World::new(3);
    let plan = world.plan();
    let mut learner = Learner::new(&plan, costs(2), LearnConfig { epochs: 2, ..quick() });
    for position in 0..300 {
        learner
            .observe(world.frame(0.0).sample(&plan, 1.0), position)
            .expect("sound");
    }
    for _ in 0..2000 {
        assert!(learner.work(&mut Reluctant).is_none());
    }
    assert_eq!(learner.status().versions, 1, "{:?}", learner.status());
}

#[test]
fn the_status_says_why_exits_are_off() {
    let mut world = World::new(4);
    let plan = world.plan();
    let mut learner = Learner::new(&plan, costs(2), quick());
    assert_eq!(learner.status().why, "training needs 300 audits, has 0");
    for position in 0..420 {
        learner
            .observe(world.frame(0.0).sample(&plan, 1.0), position)
            .expect("sound");
        assert!(learner.work(&mut Unpaced).is_none());
    }
    assert_eq!(learner.status().why, "certifying needs 437 clean audits, has 120");
}

#[test]
fn one_class_only_is_never_certified() {
    let mut world = World::new(5);
    let plan = world.plan();
    let mut learner = Learner::new(&plan, costs(2), quick());
    let mut position = 0;
    while position < 2000 {
        let frame = world.frame(0.0);
        if frame.answer != 2 {
            continue;
        }
        position += 1;
        learner.observe(frame.sample(&plan, 1.0), position).expect("sound");
        assert!(
            learner
                .work(&mut Unpaced)
                .is_none_or(|publication| publication.policy().exits.is_empty())
        );
    }
    assert!(
        learner.status().why.contains("fewer than two classes"),
        "{:?}",
        learner.status()
    );
}

#[test]
fn the_same_samples_give_the_same_heads() {
    let run = || {
        let mut world = World::new(6);
        let mut fleet = Fleet::new(&world, quick());
        for _ in 0..1200 {
            fleet.step(&mut world, 0.0, &mut Unpaced);
        }
        let heads: Vec<_> = (0..fleet.set.exits().len())
            .map(|i| fleet.set.head(i).parts().clone())
            .collect();
        (heads, fleet.set.version())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_new_leader_goes_on_from_what_is_in_force() {
    let mut world = World::new(7);
    let mut fleet = Fleet::new(&world, quick());
    for _ in 0..3000 {
        fleet.step(&mut world, 0.0, &mut Unpaced);
    }
    let before = fleet.set.version();
    let mut learner = Learner::new(&fleet.plan, costs(2), quick());
    learner.resume(Arc::clone(&fleet.set), fleet.registry.high_water());
    fleet.learner = learner;
    assert_eq!(fleet.learner.status().state, PolicyState::Certified);
    for _ in 0..200_000 {
        if fleet.set.version() > before {
            break;
        }
        fleet.step(&mut world, 1.0, &mut Unpaced);
    }
    assert!(
        fleet.set.version() > before,
        "the new leader's alarm must be newer than the old policy"
    );
    assert!(fleet.set.exits().is_empty());
}
