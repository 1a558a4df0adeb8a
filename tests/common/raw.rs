//! Kafka's wire form by hand, for what no client would send: records as bytes, batches whose files are patched.

#![allow(unreachable_pub, reason = "a module of several test binaries, public to none")]
#![allow(dead_code, reason = "every test binary compiles this module and uses its own part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failing helper is a failing test")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_wrap, reason = "sizes of a test's own bytes")]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// A record as bytes.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    /// Key bytes.
    pub key: Option<Vec<u8>>,
    /// Value bytes.
    pub value: Option<Vec<u8>>,
    /// Names and values of headers.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Milliseconds since the Unix epoch; -1: none.
    pub time: i64,
}

impl Raw {
    /// A record with a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        // An old record would be deleted by retention at once.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        Self { value: Some(value.into()), time: now.as_millis() as i64, ..Self::default() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &[u8], value: &[u8]) -> Self {
        self.headers.push((name.to_vec(), Some(value.to_vec())));
        self
    }

    fn encode(&self, delta: usize, base_time: i64) -> Vec<u8> {
        let mut body = vec![0];
        varint(&mut body, self.time - base_time);
        varint(&mut body, delta as i64);
        bytes(&mut body, self.key.as_deref());
        bytes(&mut body, self.value.as_deref());
        varint(&mut body, self.headers.len() as i64);
        for (name, value) in &self.headers {
            bytes(&mut body, Some(name));
            bytes(&mut body, value.as_deref());
        }
        let mut record = Vec::new();
        varint(&mut record, body.len() as i64);
        record.extend(body);
        record
    }
}

fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    varint(out, value.map_or(-1, |value| value.len() as i64));
    out.extend(value.unwrap_or_default());
}

/// Where a batch's checksum stands, and from where on it counts.
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

/// A batch of records, uncompressed.
pub fn batch(records: &[Raw]) -> Vec<u8> {
    let base_time = records.first().map_or(0, |record| record.time);
    let mut counted = vec![0, 0];
    counted.extend((records.len() as i32 - 1).to_be_bytes());
    counted.extend(base_time.to_be_bytes());
    counted.extend(records.iter().map(|record| record.time).max().unwrap_or(base_time).to_be_bytes());
    // No producer id, epoch or sequence.
    counted.extend([0xff; 8 + 2 + 4]);
    counted.extend((records.len() as i32).to_be_bytes());
    records.iter().enumerate().for_each(|(delta, record)| counted.extend(record.encode(delta, base_time)));
    let mut batch = vec![0; 8];
    batch.extend((counted.len() as i32 + 9).to_be_bytes());
    batch.extend([0xff, 0xff, 0xff, 0xff, 2]);
    batch.extend(crc32c(&counted).to_be_bytes());
    batch.extend(counted);
    batch
}

/// Makes a batch's checksum right again after its bytes were changed.
pub fn seal(batch: &mut [u8]) {
    let sum = crc32c(&batch[CRC_FROM..]).to_be_bytes();
    batch[CRC_AT..CRC_FROM].copy_from_slice(&sum);
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum: u32, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { (sum >> 1) ^ 0x82f6_3b78 } else { sum >> 1 })
    })
}

/// Connections to one broker that leads every partition.
pub struct RawProducer(TcpStream);

impl RawProducer {
    /// Connects to `host:port`.
    pub fn connect(bootstrap: &str) -> Self {
        Self(TcpStream::connect(bootstrap).expect("the broker listens"))
    }

    /// Produces a batch; the offset of its first record, or Kafka's error code.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &[u8]) -> Result<i64, i16> {
        let text = |text: &str| [&(text.len() as i16).to_be_bytes()[..], text.as_bytes()].concat();
        // Produce, version 3; no transaction, acks of all, ten seconds; one topic, one partition.
        let mut request = [&[0, 0, 0, 3, 0, 0, 0, 7][..], &text("raw")].concat();
        request.extend([0xff, 0xff, 0xff, 0xff, 0, 0, 0x27, 0x10, 0, 0, 0, 1]);
        request.extend(text(topic));
        request.extend(1_i32.to_be_bytes());
        request.extend(partition.to_be_bytes());
        request.extend((batch.len() as i32).to_be_bytes());
        request.extend(batch);
        self.0
            .write_all(&(request.len() as i32).to_be_bytes())
            .and_then(|()| self.0.write_all(&request))
            .expect("sent");
        let mut size = [0; 4];
        self.0.read_exact(&mut size).expect("an answer");
        let mut answer = vec![0; i32::from_be_bytes(size) as usize];
        self.0.read_exact(&mut answer).expect("the whole answer");
        // Correlation, count, name, count, partition; then error code and offset.
        let at = 4 + 4 + 2 + topic.len() + 4 + 4;
        match i16::from_be_bytes(answer[at..at + 2].try_into().unwrap()) {
            0 => Ok(i64::from_be_bytes(answer[at + 2..at + 10].try_into().unwrap())),
            code => Err(code),
        }
    }
}

/// The file of a partition's log on the machine of the tests' own broker, to be changed behind the broker's back.
pub struct LogFile(std::path::PathBuf);

impl LogFile {
    /// The first segment of a partition; none if the broker at `bootstrap` is not the tests' own.
    pub fn open(bootstrap: &str, topic: &str, partition: i32) -> Option<Self> {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/broker");
        let address = std::process::Command::new(script).arg("address").output().expect("the script runs").stdout;
        let folder = std::env::var_os("KAFKA_DIR")
            .map_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".kafka"), std::path::PathBuf::from);
        let file = folder.join(format!("data/{topic}-{partition}/00000000000000000000.log"));
        (String::from_utf8_lossy(&address).trim() == bootstrap).then_some(Self(file))
    }

    /// Changes the batch that begins with this offset.
    pub fn patch(&self, first: i64, change: impl FnOnce(&mut [u8])) {
        let mut log = std::fs::read(&self.0).expect("the log's file");
        let mut at = 0;
        loop {
            assert!(at + 12 < log.len(), "no batch begins with offset {first}");
            let length = 12 + i32::from_be_bytes(log[at + 8..at + 12].try_into().unwrap()) as usize;
            if i64::from_be_bytes(log[at..at + 8].try_into().unwrap()) == first {
                change(&mut log[at..at + length]);
                let mut file = std::fs::OpenOptions::new().write(true).open(&self.0).expect("ours to change");
                std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at as u64)).expect("in the file");
                return file.write_all(&log[at..at + length]).expect("written");
            }
            at += length;
        }
    }
}
