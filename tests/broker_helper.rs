//! Goal: the helpers that every broker test relies on keep their promises on a real Kafka.
//! Method: records with keys, headers and a tombstone go in and must come out, aborted ones must not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/broker.rs"]
mod broker;

use std::time::Duration;

use broker::{Broker, Record, header};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn records_come_out_as_they_went_in() {
    let Some(broker) = Broker::connect() else { return };
    let topic = broker.topic("in-and-out", 3, &[]);
    let sent: Vec<Record> =
        (0..50u8).map(|i| Record::new([b'c', i % 7], [i; 9]).header("seq", [i]).partition(i32::from(i % 3))).collect();
    let placed = broker.produce(&topic, &sent);

    let got = broker.consume(&topic, sent.len(), LIMIT);
    for record in &got {
        let at = placed.iter().position(|place| *place == (record.partition(), record.offset())).expect("was sent");
        assert_eq!(record.key(), sent[at].key.as_deref());
        assert_eq!(record.payload(), sent[at].payload.as_deref());
        assert_eq!(header(record, "seq"), Some(vec![u8::try_from(at).unwrap()]));
    }
    assert_eq!(broker.read_to_end(&topic).len(), sent.len());
    assert_eq!(broker.committed(&broker.unique("nobody"), &topic), [None, None, None]);
}

#[test]
fn the_end_is_found_behind_an_aborted_transaction_and_in_an_empty_topic() {
    let Some(broker) = Broker::connect() else { return };
    let topic = broker.topic("aborted", 2, &[("cleanup.policy", "compact")]);
    assert!(broker.read_to_end(&topic).is_empty());

    let tombstone = Record { payload: None, ..Record::new("gone", "").partition(0) };
    broker.produce(&topic, &[Record::new("kept", "1").partition(0), tombstone]);
    let producer: BaseProducer =
        broker.config().set("transactional.id", broker.unique("aborter")).create().expect("a producer");
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(&topic).partition(0).key("kept").payload("2")).map_err(|(error, _)| error).unwrap();
    producer.flush(LIMIT).unwrap();
    producer.abort_transaction(LIMIT).unwrap();

    let records = broker.read_to_end(&topic);
    let values: Vec<_> = records.iter().map(|record| record.payload()).collect();
    assert_eq!(values, [Some(b"1".as_slice()), None]);
}
