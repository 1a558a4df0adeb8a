//! Goal: what `replay` measures is what a worker serves: the same frames get the same answers, leave at the same exits, are
//! audited alike and give the same samples for the same FLOPs.
//! Method: learn a policy with exits by playing the demo's first pictures; give it to a worker (librdkafka's mock cluster, one
//! partition, one lane, no learner) and to a second replay that learns nothing; send later pictures through both under the
//! same names, so that draws are equal, and compare by the frames' places. How frames fall into batches differs between the two.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/fleet.rs"]
mod fleet;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fleet::{Member, config, engine, pictures, until};
use offramp::cli::replay::{Learning, Rules, Stream};
use offramp::flow::draw;
use offramp::frame::{Origin, RawFrame};
use offramp::heads::HeadSet;
use offramp::learn::{LearnConfig, Learner, Publication, Sample, SampleRejection};
use offramp::plan::ExitId;
use offramp::prediction::Prediction;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

type Mock = MockCluster<'static, DefaultProducerContext>;

const PREFIX: &str = "flow";
const SEED: u64 = 5;
/// Pictures from which a policy is learned, at most.
const LEARNED: usize = 3_000;
/// Frames that both serve: their samples stay within the 5 MiB that the mock cluster keeps of a partition.
const COMPARED: usize = 300;
/// Which of them is no picture.
const BROKEN: usize = 123;
const COPIES: u8 = 2;
const BATCH: usize = 8;

/// A learner whose publications are kept.
struct Keeping {
    learner: Learner,
    published: Rc<RefCell<Vec<Publication>>>,
}

impl Learning for Keeping {
    fn set(&self) -> Arc<HeadSet> {
        Learning::set(&self.learner)
    }

    fn observe(&mut self, sample: Sample, position: i64) -> Result<(), SampleRejection> {
        Learning::observe(&mut self.learner, sample, position)
    }

    fn work(&mut self) -> Option<Publication> {
        let publication = Learning::work(&mut self.learner)?;
        self.published.borrow_mut().push(publication.clone());
        Some(publication)
    }

    fn why(&self) -> String {
        Learning::why(&self.learner)
    }

    fn alarmed_at(&self) -> (u64, u64) {
        Learning::alarmed_at(&self.learner)
    }
}

/// One policy for ever; the samples are kept.
struct Fixed {
    heads: Arc<HeadSet>,
    samples: Rc<RefCell<Vec<Sample>>>,
}

impl Learning for Fixed {
    fn set(&self) -> Arc<HeadSet> {
        Arc::clone(&self.heads)
    }

    fn observe(&mut self, sample: Sample, _: i64) -> Result<(), SampleRejection> {
        self.samples.borrow_mut().push(sample);
        Ok(())
    }

    fn work(&mut self) -> Option<Publication> {
        None
    }

    fn why(&self) -> String {
        String::new()
    }

    fn alarmed_at(&self) -> (u64, u64) {
        (0, 0)
    }
}

fn frame(number: usize, payload: Vec<u8>) -> RawFrame {
    let offset = i64::try_from(number).unwrap();
    RawFrame {
        origin: Origin { topic: Arc::from(format!("{PREFIX}.frames")), partition: 0, offset },
        key: Some(format!("camera-{}", number % 3).into_bytes()),
        payload,
        captured_at_ms: Some(1_700_000_000_000 + 40 * offset),
        headers: vec![("content-type".into(), Some(b"image/png".to_vec()))],
        headers_left_out: 0,
    }
}

fn stream<L: Learning>(learner: L) -> Stream<'static, L> {
    let rules = Rules { batch: BATCH, seed: SEED, copies: COPIES, opinions_from: None };
    Stream::new(engine(), learner, rules).expect("the demo model can be cut")
}

fn batch(stream: &mut Stream<'_, impl Learning>, frames: &[RawFrame]) {
    stream.batch(frames.iter().cloned().map(Ok).collect()).expect("the runtime works");
}

/// Every publication on the way to a policy with exits.
fn learned(pictures: &[Vec<u8>]) -> Vec<Publication> {
    // The young audit fewer frames than they would, so that many of those compared later may leave early.
    let young = LearnConfig { audit_young: 0.4, ..LearnConfig::default() };
    let config = LearnConfig { epsilon: 0.05, seed: SEED, copies: COPIES.into(), ..young };
    let learner = Learner::new(engine().backbone.plan(), engine().costs.clone(), config);
    let published = Rc::default();
    let mut stream = stream(Keeping { learner, published: Rc::clone(&published) });
    let frames: Vec<RawFrame> = pictures.iter().enumerate().map(|(at, bytes)| frame(at, bytes.clone())).collect();
    let has_exits = |all: &Vec<Publication>| all.last().is_some_and(|last| last.set().exits().len() > 1);
    let mut batches = frames.chunks(BATCH);
    while !has_exits(&published.borrow()) {
        batch(&mut stream, batches.next().expect("a policy with exits after fewer frames"));
    }
    published.take()
}

/// Everything that a worker made of the frames.
struct Served {
    /// Class, exit and whether it was audited, by offset; none: a dead letter.
    answers: BTreeMap<i64, Option<(usize, Option<ExitId>, bool)>>,
    samples: Vec<Sample>,
    flops: u64,
}

fn produce(mock: &Mock, topic: &str, send: impl FnOnce(&BaseProducer)) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create().expect("a producer");
    send(&producer);
    producer.flush(fleet::LIMIT).unwrap_or_else(|error| panic!("{topic}: {error}"));
}

fn follow(mock: &Mock, topics: &[String]) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", mock.bootstrap_servers())
        .set("group.id", "reader")
        .create()
        .expect("a consumer");
    let mut all = TopicPartitionList::new();
    topics.iter().for_each(|topic| all.add_partition_offset(topic, 0, Offset::Beginning).expect("an offset"));
    consumer.assign(&all).expect("assigned");
    consumer
}

fn offset_of(message: &OwnedMessage) -> i64 {
    let header = message.headers().unwrap().iter().find(|header| header.key == "origin-offset").expect("an origin");
    std::str::from_utf8(header.value.unwrap()).unwrap().parse().expect("a number")
}

/// Runs a worker over the frames until all are settled and `samples` audits and copies have come.
fn serve(frames: &[RawFrame], publications: &[Publication], samples: usize) -> Served {
    let mock: Mock = MockCluster::new(1).expect("a mock cluster");
    let topics = ["frames", "predictions", "dead_letters", "samples", "heads"].map(|topic| format!("{PREFIX}.{topic}"));
    topics.iter().for_each(|topic| mock.create_topic(topic, 1, 1).expect("a topic"));
    let plan = engine().backbone.plan();
    produce(&mock, &topics[4], |producer| {
        for (key, value) in publications.iter().flat_map(|some| some.records(plan, None).expect("records")) {
            producer.send(BaseRecord::to(&topics[4]).key(&key).payload(&value)).expect("queued");
        }
    });
    produce(&mock, &topics[0], |producer| {
        for frame in frames {
            let content_type = Header { key: "content-type", value: frame.headers[0].1.as_deref() };
            let record = BaseRecord::to(&topics[0])
                .key(frame.key.as_deref().unwrap())
                .payload(&frame.payload)
                .timestamp(frame.captured_at_ms.unwrap())
                .headers(OwnedHeaders::new().insert(content_type));
            producer.send(record).map_err(|(error, _)| error).expect("queued");
        }
    });
    // So many frames never lag: all copies are made.
    let room = [format!("engine.max_batch={COMPARED}"), format!("engine.max_in_flight={COMPARED}")];
    let (seed, copies) = (format!("exits.seed={SEED}"), format!("learning.copies={COPIES}"));
    let more: [&str; 6] = [&room[0], &room[1], &seed, &copies, "exits.epsilon=0.05", "learning.enabled=false"];
    let member = Member::start(&config(&mock.bootstrap_servers(), PREFIX, "one", &more));
    assert_eq!(member.telemetry.heads().version(), publications.last().expect("some").sequence());

    let consumer = follow(&mock, &topics[1..4]);
    let mut served = Served { answers: BTreeMap::new(), samples: Vec::new(), flops: 0 };
    until("every frame is settled and every audit sent", || {
        while let Some(message) = consumer.poll(std::time::Duration::ZERO) {
            let message = message.expect("the cluster serves its topics").detach();
            let payload = message.payload().unwrap_or_default();
            if message.topic() == topics[3] {
                served.samples.push(Sample::decode(plan, payload).expect("a sample of this plan"));
                continue;
            }
            let answer = (message.topic() == topics[1]).then(|| {
                let Prediction { class, exit, audited, .. } = serde_json::from_slice(payload).expect("a prediction");
                (class, exit, audited)
            });
            assert!(served.answers.insert(offset_of(&message), answer).is_none(), "a frame was settled twice");
        }
        served.answers.len() >= frames.len() && served.samples.len() >= samples
    });
    let telemetry = Arc::clone(&member.telemetry);
    member.stop().expect("drained");
    served.flops = telemetry.flops_totals().0;
    let (_, end) = consumer.fetch_watermarks(&topics[3], 0, fleet::LIMIT).expect("the cluster answers");
    assert_eq!(usize::try_from(end).unwrap(), samples, "samples at a worker and in a replay");
    served
}

/// Samples by frame, in the order in which they were made: the audit, then its copies.
fn by_frame(samples: Vec<Sample>) -> BTreeMap<u64, Vec<Sample>> {
    let mut frames: BTreeMap<u64, Vec<Sample>> = BTreeMap::new();
    for sample in samples {
        frames.entry(sample.frame().expect("every sample names its frame")).or_default().push(sample);
    }
    frames
}

#[test]
fn a_replay_measures_what_a_worker_serves() {
    let mut pictures = pictures(LEARNED + COMPARED);
    let compared = pictures.split_off(LEARNED);
    let publications = learned(&pictures);
    let heads = Arc::clone(publications.last().expect("the learner has something to tell").set());

    let broken = |at, bytes| if at == BROKEN { b"\x89PNG\r\n\x1a\nno more".to_vec() } else { bytes };
    let frames: Vec<RawFrame> =
        compared.into_iter().enumerate().map(|(at, bytes)| frame(at, broken(at, bytes))).collect();
    let samples = Rc::default();
    let mut stream = stream(Fixed { heads: Arc::clone(&heads), samples: Rc::clone(&samples) });
    frames.chunks(BATCH).for_each(|some| batch(&mut stream, some));
    let replayed = stream.finish().expect("the runtime works");
    let samples: Vec<Sample> = samples.take();
    let served = serve(&frames, &publications, samples.len());

    assert_eq!((replayed.rejected, replayed.first_rejection.as_ref().map(|(at, _)| *at)), (1, Some(BROKEN)));
    let mut answers: BTreeMap<i64, _> = replayed
        .played
        .iter()
        .map(|frame| (frames[frame.frame].origin.offset, frame.served.map(|class| (class, frame.exit, frame.audited))))
        .collect();
    answers.insert(frames[BROKEN].origin.offset, None);
    assert_eq!(answers, served.answers);

    // The comparison is of something: frames leave early and at several exits, audits are those that were drawn.
    let early = |exit: &ExitId| replayed.played.iter().filter(|frame| frame.exit == Some(*exit)).count();
    assert!(heads.exits().iter().filter(|exit| early(exit) > 0).count() > 1, "frames leave at one exit only");
    let good = frames.iter().enumerate().filter(|(at, _)| *at != BROKEN).map(|(_, frame)| frame);
    let drawn = |frame: &&RawFrame| draw(&frame.origin, SEED) < heads.audit_rate();
    let audited: Vec<usize> = replayed.played.iter().filter(|frame| frame.audited).map(|frame| frame.frame).collect();
    let expected: Vec<usize> = good.filter(drawn).map(|frame| usize::try_from(frame.origin.offset).unwrap()).collect();
    assert!(!audited.is_empty() && audited == expected, "{audited:?} were audited, {expected:?} drawn");
    assert_eq!(samples.len(), audited.len() * (1 + usize::from(COPIES.min(heads.copies()))));

    assert_eq!(by_frame(samples), by_frame(served.samples));
    assert_eq!(replayed.played.iter().map(|frame| frame.flops).sum::<u64>(), served.flops);
}
