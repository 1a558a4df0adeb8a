//! `offramp feed` as it is typed: what it accepts, and that it feeds, limits, loops and fails as it says. Kafka is
//! librdkafka's mock cluster.

#![allow(clippy::unwrap_used, clippy::panic, clippy::let_underscore_must_use, reason = "a test fails by panicking")]

use std::path::Path;

use clap::Parser;
use offramp::cli::feed::{FeedArgs, run};
use rdkafka::mocking::MockCluster;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    feed: FeedArgs,
}

fn parse(line: &str) -> Result<FeedArgs, String> {
    let cli = Cli::try_parse_from(std::iter::once("feed").chain(line.split_whitespace()));
    cli.map(|cli| cli.feed).map_err(|error| error.to_string())
}

/// Two frames of 2 x 2.
fn frames(folder: &Path) -> String {
    let path = folder.join("frames.idx");
    std::fs::write(&path, [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2][..], &[7; 8]].concat()).unwrap();
    path.display().to_string()
}

#[test]
fn wrong_arguments_are_refused() {
    let ok = "--topic t --frames f";
    assert_eq!(parse(ok).unwrap().cameras, 6);
    assert_eq!(parse(&format!("{ok} --set-kafka a.b=c=d")).unwrap().set_kafka, [("a.b".to_owned(), "c=d".to_owned())]);
    for wrong in
        ["--rate 0", "--rate nan", "--rate -3", "--cameras 0", "--format bmp", "--set-kafka acks", "--limit -1"]
    {
        assert!(parse(&format!("{ok} {wrong}")).is_err(), "{wrong}");
    }
    assert!(parse("--frames f").is_err() && parse("--topic t").is_err());
}

#[test]
fn it_feeds_up_to_the_limit_and_starts_again_if_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("frames", 1, 1).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    let line = format!("--bootstrap {bootstrap} --topic frames --frames {}", frames(folder.path()));
    let end = || {
        let consumer: rdkafka::consumer::BaseConsumer =
            rdkafka::ClientConfig::new().set("bootstrap.servers", &bootstrap).create().unwrap();
        let timeout = std::time::Duration::from_secs(10);
        rdkafka::consumer::Consumer::fetch_watermarks(&consumer, "frames", 0, timeout).unwrap().1
    };
    run(parse(&line).unwrap()).unwrap();
    assert_eq!(end(), 2);
    run(parse(&format!("{line} --limit 1 --format raw")).unwrap()).unwrap();
    assert_eq!(end(), 3);
    run(parse(&format!("{line} --loop --limit 7 --rate 1000 --format jpeg")).unwrap()).unwrap();
    assert_eq!(end(), 10);
}

/// Goal: help, README and code agree on the cameras' names.
#[test]
fn cameras_are_called_as_the_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("frames", 1, 1).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    let line =
        format!("--bootstrap {bootstrap} --topic frames --cameras 1 --limit 1 --frames {}", frames(folder.path()));
    run(parse(&line).unwrap()).unwrap();
    let consumer: rdkafka::consumer::BaseConsumer =
        rdkafka::ClientConfig::new().set("bootstrap.servers", &bootstrap).set("group.id", "reader").create().unwrap();
    let mut start = rdkafka::TopicPartitionList::new();
    start.add_partition_offset("frames", 0, rdkafka::Offset::Beginning).unwrap();
    rdkafka::consumer::Consumer::assign(&consumer, &start).unwrap();
    // A poll may come back with nothing, having served an event of the client's own.
    let mut polls = std::iter::repeat_with(|| consumer.poll(std::time::Duration::from_secs(1))).take(60);
    let record = polls.find_map(|polled| polled).unwrap().unwrap();
    let camera = std::str::from_utf8(rdkafka::Message::key(&record).unwrap()).unwrap();
    let help = <Cli as clap::CommandFactory>::command().render_long_help().to_string();
    assert!(help.contains(camera), "{camera} in {help}");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert!(readme.contains(&format!("{{\"camera\":\"{camera}\"")), "{camera}");
}

#[test]
fn what_is_not_delivered_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("frames", 1, 1).unwrap();
    let bootstrap = cluster.bootstrap_servers();
    std::fs::write(folder.path().join("large.png"), vec![0; 3000]).unwrap();
    let folder = folder.path().display();
    let line = format!("--bootstrap {bootstrap} --topic frames --frames {folder} --set-kafka message.max.bytes=1000");
    let error = run(parse(&line).unwrap()).unwrap_err().to_string();
    assert!(error.contains("frames not delivered: 1;") && error.contains("large.png"), "{error}");
    let error = run(parse("--topic t --frames /no/such/file").unwrap()).unwrap_err().to_string();
    assert!(error.contains("/no/such/file"), "{error}");
}
