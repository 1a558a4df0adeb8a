//! Goal: whatever dies, freezes, joins or leaves under load, no frame is lost, and offsets end where the frames end. Under
//! exactly-once no frame is answered twice either.
//! Method: workers as processes of the real binary, cameras that send numbered frames at a fixed rate, and blows in an order
//! drawn from a seed (`chaos/blows.rs`). A blow falls only when frames are answered and its victim holds partitions. In the
//! end the frames topic is held against the predictions and dead letters that it led to.
//!
//! In a binary of its own because it kills the broker that other tests share. The long run is `make chaos`:
//! `CHAOS_KILLS=50 CHAOS_SEED=1 CHAOS_GUARANTEE=exactly-once`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/broker.rs"]
mod broker;
mod chaos;
#[path = "common/fleet.rs"]
mod fleet;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use broker::{Broker, header};
use chaos::blows::{self, Blow};
use chaos::cameras::{self, Cameras};
use chaos::groups::{Groups, storm};
use chaos::process::Process;
use chaos::tally::{Answer, Fed, Place, Tally};
use fleet::{config, settings, until};
use offramp::config::Config;
use offramp::kafka::{Clients, ensure_topics};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rdkafka::message::{Message as _, OwnedMessage};

const WORKERS: [&str; 3] = ["one", "two", "three"];
/// The worker that comes and goes.
const GUEST: &str = "guest";
/// Answers that must come between two blows.
const ANSWERS: i64 = 200;
/// Members that a storm sends through the group, and how many of them are in it at once.
const STORM: (usize, usize) = (5, 3);

/// What the settings promise of each frame's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guarantee {
    /// One or more.
    AtLeastOnce,
    /// One, for whoever reads committed records only.
    ExactlyOnce,
}

impl Guarantee {
    /// By its name in the settings.
    fn named(name: &str) -> Self {
        match name {
            "at-least-once" => Self::AtLeastOnce,
            "exactly-once" => Self::ExactlyOnce,
            _ => panic!("CHAOS_GUARANTEE is {name:?}; it can be at-least-once (the default) or exactly-once"),
        }
    }

    /// The setting that asks for it; none for the default.
    fn setting(self) -> Option<String> {
        (self == Self::ExactlyOnce).then(|| "delivery.guarantee=exactly-once".to_owned())
    }
}

/// The project's own broker script; `None` if the tests use somebody else's broker, which is not ours to kill.
fn broker_script(broker: &Broker) -> Option<impl Fn(&str) + use<>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/broker");
    let address = Command::new(&script).arg("address").output().expect("the script runs").stdout;
    let ours = String::from_utf8_lossy(&address).trim() == broker.bootstrap();
    ours.then_some(move |order: &str| {
        let done = Command::new(&script).arg(order).stdout(Stdio::null()).status().expect("the script runs");
        assert!(done.success(), "tests/kafka/broker {order} failed");
    })
}

/// A fleet on topics of its own, and what can happen to it.
struct Fleet<'a> {
    broker: &'a Broker,
    prefix: String,
    guarantee: Guarantee,
    config: Config,
    groups: Groups,
    workers: Vec<Process>,
    random: StdRng,
}

impl<'a> Fleet<'a> {
    fn start(broker: &'a Broker, guarantee: Guarantee, seed: u64) -> Self {
        let prefix = broker.unique("chaos");
        let config = config(broker.bootstrap(), &prefix, "setup", &[]);
        let clients = Clients::new(config.kafka.clone(), config.engine.max_frame_bytes, "setup");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ensure_topics(&clients, &config.topics)).expect("topics");
        let (groups, random) = (Groups::of(broker, &prefix), StdRng::seed_from_u64(seed));
        let mut fleet = Self { broker, prefix, guarantee, config, groups, workers: Vec::new(), random };
        WORKERS.into_iter().for_each(|name| fleet.add(name));
        fleet
    }

    fn add(&mut self, name: &str) {
        let mut settings = settings(self.broker.bootstrap(), &self.prefix, name);
        settings.extend(self.guarantee.setting());
        self.workers.push(Process::start(name, &settings, &self.prefix));
    }

    /// Takes out the worker of that name once it holds partitions: what happens to one that holds none proves nothing.
    fn take(&mut self, name: &str) -> Process {
        until("a worker holds partitions", || {
            self.workers.iter_mut().for_each(Process::assert_alive);
            self.groups.holds(name)
        });
        let at = self.workers.iter().position(|worker| worker.name == name).expect("a worker of the fleet");
        self.workers.remove(at)
    }

    fn take_any(&mut self) -> Process {
        let at = self.random.random_range(0..self.workers.len());
        let name = self.workers[at].name.clone();
        self.take(&name)
    }

    fn answers(&self) -> i64 {
        self.broker.ends(&self.config.topics.predictions).iter().sum()
    }

    fn suffer(&mut self, blow: Blow, script: Option<&impl Fn(&str)>) {
        match blow {
            Blow::KillWorker => {
                let worker = self.take_any();
                let name = worker.name.clone();
                worker.kill();
                self.add(&name);
            }
            Blow::KillLearner => self.kill_learner(),
            Blow::KillBroker => {
                let script = script.expect("the script of blows spares a broker that is not ours");
                script("kill");
                script("start");
            }
            Blow::Terminate => {
                let worker = self.take_any();
                let name = worker.name.clone();
                worker.terminate();
                self.add(&name);
            }
            Blow::Freeze => {
                let mut worker = self.take_any();
                worker.freeze();
                until("the group throws a frozen worker out", || !self.groups.has(&worker.name));
                worker.thaw();
                self.workers.push(worker);
            }
            Blow::JoinOrLeave if self.workers.iter().any(|worker| worker.name == GUEST) => self.take(GUEST).terminate(),
            Blow::JoinOrLeave => self.add(GUEST),
            Blow::Storm => storm(&self.config, STORM.0, STORM.1),
        }
    }

    fn kill_learner(&mut self) {
        let mut seat = None;
        until("somebody learns", || {
            seat = self.groups.learner();
            seat.is_some()
        });
        let (member, name) = seat.expect("found");
        self.take(&name).kill();
        self.add(&name);
        until("another worker learns", || self.groups.learner().is_some_and(|(next, _)| next.id != member.id));
    }

    /// Waits until every frame is committed, and ends the fleet as an orchestrator does.
    fn finish(mut self) -> (Vec<i64>, Vec<Option<i64>>) {
        let frames = self.config.topics.frames.clone();
        let ends = self.broker.ends(&frames);
        let committed = || self.broker.committed(&self.prefix, &frames);
        until("all offsets are committed", || {
            self.workers.iter_mut().for_each(Process::assert_alive);
            ends.iter().zip(committed()).all(|(end, committed)| *end == committed.unwrap_or(0))
        });
        std::mem::take(&mut self.workers).into_iter().for_each(Process::terminate);
        (ends, committed())
    }
}

fn number(record: &OwnedMessage, name: &str) -> i64 {
    String::from_utf8(header(record, name).expect(name)).unwrap().parse().unwrap()
}

fn key(record: &OwnedMessage) -> Vec<u8> {
    record.key().expect("a key").to_vec()
}

/// Holds the frames topic against what it led to.
fn count(broker: &Broker, config: &Config, sent: u64) -> Tally {
    let fed = |record: &OwnedMessage| {
        let number = u64::try_from(number(record, cameras::NUMBER)).unwrap();
        let fed = Fed { number, key: key(record), is_picture: cameras::is_picture(number) };
        ((record.partition(), record.offset()), fed)
    };
    let frames: BTreeMap<Place, Fed> = broker.read_to_end(&config.topics.frames).iter().map(fed).collect();
    let origin = |record: &OwnedMessage| {
        (i32::try_from(number(record, "origin-partition")).unwrap(), number(record, "origin-offset"))
    };
    let read = |topic: &str, is_prediction| {
        let answer = move |record: OwnedMessage| Answer { origin: origin(&record), key: key(&record), is_prediction };
        broker.read_to_end(topic).into_iter().map(answer).collect::<Vec<Answer>>()
    };
    let answers = [read(&config.topics.predictions, true), read(&config.topics.dead_letters, false)].concat();
    Tally::of(sent, &frames, &answers)
}

fn run(broker: &Broker, guarantee: Guarantee, kills: usize, seed: u64) {
    let script = broker_script(broker);
    let blows = blows::script(seed, kills, script.is_some());
    let mut fleet = Fleet::start(broker, guarantee, seed);
    let config = fleet.config.clone();
    let cameras = Cameras::start(broker, &config.topics.frames);
    for (number, blow) in blows.iter().enumerate() {
        let before = fleet.answers();
        until("frames are answered", || fleet.answers() >= before + ANSWERS);
        eprintln!("chaos: blow {} of {}: {blow:?}", number + 1, blows.len());
        fleet.suffer(*blow, script.as_ref());
    }
    let sent = cameras.stop();
    let (ends, committed) = fleet.finish();
    let tally = count(broker, &config, sent);
    eprintln!("chaos: {guarantee:?}, seed {seed}: {}: {tally}", blows::told(&blows));

    assert!(tally.misfed.is_empty(), "the cameras are at fault: {:?}", tally.misfed);
    assert_eq!(tally.lost, [], "frames without an answer");
    assert_eq!(tally.wrong, [], "answers that fit no frame");
    assert!(guarantee == Guarantee::AtLeastOnce || tally.doubled == 0, "{} answers too many", tally.doubled);
    for (partition, (end, committed)) in ends.into_iter().zip(committed).enumerate() {
        assert_eq!(committed.unwrap_or(0), end, "committed in partition {partition}");
    }
}

fn from_environment<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text:?}")))
}

#[test]
fn nothing_is_lost_in_one_round_of_blows() {
    let Some(broker) = Broker::connect() else { return };
    run(&broker, Guarantee::AtLeastOnce, 1, 1);
}

#[test]
#[ignore = "takes its time: `make chaos`"]
fn nothing_is_lost_when_anything_dies() {
    let Some(broker) = Broker::connect() else { return };
    let guarantee = std::env::var("CHAOS_GUARANTEE").unwrap_or_else(|_| "at-least-once".into());
    run(&broker, Guarantee::named(&guarantee), from_environment("CHAOS_KILLS", 20), from_environment("CHAOS_SEED", 1));
}
