//! Goal: nothing is lost when workers and the broker are killed again and again under load.
//! Method: two workers as processes of their own. Each round frames go in, and as soon as some of them are answered, one of
//! the three is killed without warning and started again. In the end every frame must have its answer.
//!
//! In a binary of its own because it kills the broker that other tests share: `make chaos`, with `CHAOS_KILLS=n`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/broker.rs"]
mod broker;
#[path = "common/fleet.rs"]
mod fleet;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use broker::{Broker, Record, header};
use fleet::{config, pictures, settings, until};
use offramp::kafka::{Clients, ensure_topics};
use rdkafka::message::OwnedMessage;

/// Frames that go in per round, and answers that must come before something dies.
const FRAMES: usize = 300;
const ANSWERS: i64 = 100;

struct Process {
    name: &'static str,
    child: Child,
}

impl Process {
    fn start(broker: &Broker, prefix: &str, name: &'static str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_offramp"));
        command.arg("run").stdout(Stdio::null());
        for set in settings(broker.bootstrap(), prefix, name) {
            command.arg("--set").arg(set);
        }
        Self { name, child: command.spawn().expect("the binary starts") }
    }

    fn kill(&mut self) {
        let ended = self.child.try_wait().expect("a child of ours");
        assert!(ended.is_none(), "worker {} ended by itself: {ended:?}", self.name);
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("dead");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already dead is fine: the test may be failing.
        self.child.kill().and_then(|()| self.child.wait()).ok();
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

fn origin(record: &OwnedMessage) -> (i32, i64) {
    let number = |name: &str| String::from_utf8(header(record, name).expect(name)).unwrap().parse::<i64>().unwrap();
    (i32::try_from(number("origin-partition")).unwrap(), number("origin-offset"))
}

#[test]
#[ignore = "kills the broker: `make chaos`"]
fn nothing_is_lost_when_anything_dies() {
    let Some(broker) = Broker::connect() else { return };
    let kills: usize = std::env::var("CHAOS_KILLS").map_or(20, |kills| kills.parse().expect("CHAOS_KILLS is a number"));
    let prefix = broker.unique("chaos");
    let setup = config(broker.bootstrap(), &prefix, "setup", &[]);
    let clients = Clients::new(setup.kafka.clone(), setup.engine.max_frame_bytes, "setup");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ensure_topics(&clients, &setup.topics)).expect("topics");
    let (frames, predictions) = (format!("{prefix}.frames"), format!("{prefix}.predictions"));

    let script = broker_script(&broker);
    let mut workers = [Process::start(&broker, &prefix, "one"), Process::start(&broker, &prefix, "two")];
    let stream = pictures(FRAMES);
    let mut answers: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    for round in 0..kills {
        let before: i64 = broker.ends(&predictions).iter().sum();
        let deal = |(index, bytes): (usize, &Vec<u8>)| Record::new(format!("cam-{}", index % 6), bytes);
        let records: Vec<Record> = stream.iter().enumerate().map(deal).collect();
        answers.extend(broker.produce(&frames, &records).into_iter().map(|place| (place, 0)));
        until("some frames are answered", || broker.ends(&predictions).iter().sum::<i64>() >= before + ANSWERS);
        match (round % 3, &script) {
            (2, Some(script)) => {
                eprintln!("round {round}: the broker dies");
                script("kill");
                script("start");
            }
            (victim, _) => {
                let worker = &mut workers[victim % 2];
                eprintln!("round {round}: worker {} dies", worker.name);
                worker.kill();
                *worker = Process::start(&broker, &prefix, worker.name);
            }
        }
    }

    let placed = answers.len();
    until("every frame is answered", || {
        answers.values_mut().for_each(|count| *count = 0);
        for record in broker.read_to_end(&predictions) {
            *answers.get_mut(&origin(&record)).expect("an answer to a frame that was sent") += 1;
        }
        answers.values().all(|count| *count > 0)
    });
    let ends = broker.ends(&frames);
    until("all offsets are committed", || {
        let committed = broker.committed(&prefix, &frames);
        let done = ends.iter().zip(&committed).all(|(end, committed)| *end == committed.unwrap_or(0));
        if !done {
            eprintln!("ends {ends:?}, committed {committed:?}");
        }
        done
    });
    assert!(broker.read_to_end(&format!("{prefix}.dead_letters")).is_empty(), "no frame was at fault");
    let again: usize = answers.values().map(|count| count - 1).sum();
    eprintln!("{placed} frames, {kills} kills, none lost, {again} answered more than once");
}
