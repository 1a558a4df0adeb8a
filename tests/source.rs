//! Sources give every frame of a file in order, name what is wrong with bad ones, and the feeder puts them into Kafka as
//! cameras would. Files are made here; Kafka is librdkafka's mock cluster, which speaks the real protocol.

#![allow(clippy::unwrap_used, clippy::panic, clippy::let_underscore_must_use, reason = "a test fails by panicking")]
#![allow(clippy::cast_possible_truncation, reason = "test frames are small")]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use image::{GrayImage, ImageFormat, RgbImage};
use offramp::decode::{DecodeLimits, Decoder};
use offramp::frame::{Channels, InputSpec, Layout, Resize};
use offramp::source::feeder::{FeedError, FeedOptions, Pace, feed};
use offramp::source::{self, Encoding, Label, Picture, SourceError, SourceOptions};
use proptest::prelude::*;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use tempfile::TempDir;

const FRAMES: usize = 5;
const SIDE: usize = 4;

fn pixels(frame: usize) -> Vec<u8> {
    (0..SIDE * SIDE).map(|at| (frame * 40 + at) as u8).collect()
}

fn idx(rank: u8, dims: &[u32], values: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, rank];
    for dim in dims {
        bytes.extend(dim.to_be_bytes());
    }
    bytes.extend(values);
    bytes
}

fn pictures_idx() -> Vec<u8> {
    let all: Vec<u8> = (0..FRAMES).flat_map(pixels).collect();
    idx(3, &[FRAMES as u32, SIDE as u32, SIDE as u32], &all)
}

fn npy(descr: &str, shape: &str, values: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values);
    bytes
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn raw() -> SourceOptions {
    SourceOptions { encoding: Encoding::Raw, ..SourceOptions::default() }
}

fn all(path: &Path, options: &SourceOptions) -> Vec<Picture> {
    let source = source::open(path, options).unwrap();
    let hint = source.frames();
    let pictures: Vec<Picture> = source.map(Result::unwrap).collect();
    assert!(hint.is_none_or(|hint| hint == pictures.len() as u64));
    pictures
}

fn fault(path: &Path, options: &SourceOptions) -> String {
    let error = match source::open(path, options) {
        Err(error) => error,
        Ok(source) => source.into_iter().find_map(Result::err).unwrap(),
    };
    let words = error.to_string();
    assert!(
        words.contains(&path.display().to_string()) || options.labels.is_some() || options.pick.is_some(),
        "{words}"
    );
    words
}

fn png(image: &GrayImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    RgbImage::from_pixel(16, 16, image::Rgb([shade, 0, 0])).write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
    bytes.into_inner()
}

#[test]
fn arrays_give_the_same_frames_whatever_file_they_are_in() {
    let files = Files::new();
    let values: Vec<u8> = (0..FRAMES).flat_map(pixels).collect();
    let shape = format!("({FRAMES}, {SIDE}, {SIDE})");
    let sources = [
        files.write("frames-idx3-ubyte", &pictures_idx()),
        files.write("frames-idx3-ubyte.gz", &gzipped(&pictures_idx())),
        files.write("frames.npy", &npy("|u1", &shape, &values)),
        files.write("channels.npy", &npy("|u1", &format!("({FRAMES}, {SIDE}, {SIDE}, 1)"), &values)),
    ];
    for path in &sources {
        let pictures = all(path, &raw());
        assert_eq!(pictures.len(), FRAMES);
        for (frame, picture) in pictures.iter().enumerate() {
            assert_eq!(picture.bytes, pixels(frame));
            assert_eq!(picture.content_type, "application/x-raw; dtype=u8; shape=4x4x1");
            assert_eq!(picture.label, None);
            assert!(picture.name.ends_with(&format!("#{frame}")));
        }
    }
}

#[test]
fn what_a_source_encodes_the_decoder_reads_back() {
    let files = Files::new();
    let path = files.write("frames", &pictures_idx());
    let spec = InputSpec {
        width: SIDE,
        height: SIDE,
        channels: Channels::Gray,
        layout: Layout::Nchw,
        scale: 1.0,
        mean: vec![0.0],
        std: vec![1.0],
        resize: Resize::Stretch,
        mirror: true,
    };
    for (encoding, tolerance) in [(Encoding::Png, 0.0), (Encoding::Raw, 0.0), (Encoding::Jpeg, 6.0)] {
        let options = SourceOptions { encoding, ..SourceOptions::default() };
        let mut decoder = Decoder::new(spec.clone(), DecodeLimits::default());
        for (frame, picture) in all(&path, &options).iter().enumerate() {
            let mut out = vec![0.0; spec.len()];
            decoder.decode(&picture.bytes, Some(&picture.content_type), &mut out).unwrap();
            let worst = out.iter().zip(pixels(frame)).map(|(a, b)| (a - f32::from(b)).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance, "{encoding:?} differs by {worst}");
        }
    }
}

#[test]
fn labels_and_picks_come_from_their_own_files() {
    let files = Files::new();
    let path = files.write("frames", &pictures_idx());
    let labels = [
        files.write("labels-idx1.gz", &gzipped(&idx(1, &[FRAMES as u32], &[3, 1, 4, 1, 5]))),
        files.write("labels.npy", &npy("<i2", "(5,)", &[3, 0, 1, 0, 4, 0, 1, 0, 5, 0])),
        files.write("big.npy", &npy(">i2", "(5,)", &[0, 3, 0, 1, 0, 4, 0, 1, 0, 5])),
        files.write("labels.txt", b"3\n1\n4\n1\n5\n"),
    ];
    for labels in labels {
        let options = SourceOptions { labels: Some(labels), ..raw() };
        let found: Vec<_> = all(&path, &options).into_iter().map(|picture| picture.label).collect();
        assert_eq!(found, [3, 1, 4, 1, 5].map(|label| Some(Label::Index(label))));
    }
    let labels = Some(files.write("names.txt", b"a\nb\nc\nd\ne\n"));
    let pick = Some(files.write("pick.npy", &npy("<i8", "(2,)", &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])));
    let picked = all(&path, &SourceOptions { labels, pick, ..raw() });
    assert_eq!(picked.iter().map(|p| p.bytes.clone()).collect::<Vec<_>>(), [pixels(3), pixels(0)]);
    assert_eq!(picked[0].label, Some(Label::Name("d".to_owned())));
}

#[test]
fn a_negative_label_is_told_as_it_is() {
    let files = Files::new();
    let path = files.write("frames", &pictures_idx());
    for (descr, value) in [("|i1", &[0xFF][..]), ("<i2", &[0xFF; 2]), (">i4", &[0xFF; 4]), ("<i8", &[0xFF; 8])] {
        let values = [&vec![0; 2 * value.len()][..], value, &vec![0; 2 * value.len()]].concat();
        let labels = Some(files.write("labels.npy", &npy(descr, "(5,)", &values)));
        let error = source::open(&path, &SourceOptions { labels, ..raw() }).err().unwrap().to_string();
        assert!(error.contains("value 2 is -1"), "{descr}: {error}");
    }
}

#[test]
fn what_is_no_kind_of_frames_is_told_which_kinds_there_are() {
    let files = Files::new();
    for (name, bytes) in [("notes", "Grüße\n".as_bytes()), ("notes.mp4", b"a,b\r\n"), ("model.onnx", &[8, 10, 0, 1])]
    {
        let error = source::open(&files.write(name, bytes), &raw()).err().unwrap().to_string();
        assert!(error.contains("Motion JPEG") && !error.contains("ffmpeg"), "{error}");
    }
    let broken = [&gzipped(&pictures_idx())[..20], &[0xFF; 40]].concat();
    let error = match source::open(&files.write("frames.gz", &broken), &raw()) {
        Ok(mut source) => source.find_map(Result::err).unwrap(),
        Err(error) => error,
    };
    assert!(!error.to_string().contains("permissions"), "{error}");
}

#[test]
fn a_label_is_found_among_the_backbones() {
    let labels = ["T-shirt/top", "Ankle boot"].map(str::to_owned);
    assert_eq!(Label::Name("ankle_boot".to_owned()).resolve(&labels), Some(1));
    assert_eq!(Label::Index(1).resolve(&labels), Some(1));
    assert_eq!(Label::Index(2).resolve(&labels), None);
    assert_eq!(Label::Name("cat".to_owned()).resolve(&labels), None);
}

#[test]
fn a_folder_gives_its_pictures_sorted_with_the_sub_folder_as_class() {
    let files = Files::new();
    let picture = png(&GrayImage::from_pixel(2, 2, image::Luma([9])));
    for name in ["cat/2.png", "cat/1.PNG", "dog/deep/1.jpeg", "0.webp", "notes.txt"] {
        files.write(name, &picture);
    }
    let pictures = all(files.0.path(), &SourceOptions::default());
    let found: Vec<(String, Option<String>)> =
        pictures.iter().map(|p| (p.name.clone(), p.label.as_ref().map(ToString::to_string))).collect();
    let cat = Some("cat".to_owned());
    let expected =
        [("0.webp", None), ("cat/1.PNG", cat.clone()), ("cat/2.png", cat), ("dog/deep/1.jpeg", Some("dog".to_owned()))];
    assert_eq!(found, expected.map(|(name, label)| (name.to_owned(), label)));
    assert_eq!(pictures[3].content_type, "image/jpeg");
    assert_eq!(pictures[1].bytes, picture);
}

#[test]
fn every_fault_names_the_file_the_reason_and_the_fix() {
    let files = Files::new();
    let cases = [
        (PathBuf::from("/nothing/here"), "cannot read"),
        (files.write("empty", b""), "the file is empty"),
        (files.write("short.idx", &pictures_idx()[..50]), "ends inside frame 2 of the 5"),
        (files.write("head.idx", &pictures_idx()[..9]), "inside its IDX header"),
        (files.write("labels.idx", &idx(1, &[5], &[1; 5])), "no pictures"),
        (files.write("floats.idx", &[0, 0, 0x0D, 1, 0, 0, 0, 1]), "IDX type 0x0d"),
        (files.write("huge.idx", &idx(3, &[1, u32::MAX, u32::MAX], &[])), "its frames are 4294967295"),
        (files.write("none.idx", &idx(3, &[0, 4, 4], &[])), "no frames"),
        (files.write("floats.npy", &npy("<f4", "(1, 2, 2)", &[0; 16])), "numpy.uint8"),
        (files.write("first.npy", &npy("|u1", "(1, 3, 8, 8)", &[0; 192])), "numpy.moveaxis"),
        (files.write("flat.npy", &npy("|u1", "(9,)", &[0; 9])), "1 dimensions"),
        (files.write("forged.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'"), "claims 4294967295 bytes"),
        (files.write("folder/readme.txt", b"x").parent().unwrap().to_owned(), "no pictures in this folder"),
        (files.write("no.mjpeg", b"this is no stream of pictures"), "no JPEG in it"),
        (files.write("torn.mjpeg", &jpeg(9)[..200]), "ends inside picture 0"),
    ];
    for (path, words) in &cases {
        let found = fault(path, &raw());
        assert!(found.contains(words), "{found:?} lacks {words:?}");
    }
    let path = files.write("frames", &pictures_idx());
    let labels = Some(files.write("few.txt", b"1\n2\n"));
    assert!(fault(&path, &SourceOptions { labels, ..raw() }).contains("2 labels for 5 frames"));
    let pick = Some(files.write("beyond.npy", &npy("|u1", "(1,)", &[5])));
    assert!(fault(&path, &SourceOptions { pick, ..raw() }).contains("frame 5 of 5"));
}

#[test]
fn motion_jpeg_is_split_into_its_pictures() {
    let files = Files::new();
    let pictures: Vec<Vec<u8>> = (0..40).map(|shade| jpeg(shade * 6)).collect();
    let plain = files.write("plain.mjpeg", &pictures.concat());
    let multipart: Vec<u8> =
        pictures.iter().flat_map(|p| [b"--b\r\nContent-Type: image/jpeg\r\n\r\n", &p[..], b"\r\n"].concat()).collect();
    for path in [plain, files.write("recorded.mjpg", &multipart), files.write("by-content", &pictures.concat())] {
        let found: Vec<Vec<u8>> = all(&path, &SourceOptions::default()).into_iter().map(|p| p.bytes).collect();
        assert!(found == pictures, "{}", path.display());
    }
}

/// A stand-in for ffmpeg, so that the pipe is tested where there is none.
#[cfg(unix)]
fn fake_ffmpeg(files: &Files, script: &str) -> SourceOptions {
    use std::os::unix::fs::PermissionsExt as _;
    let path = files.write("fake-ffmpeg", format!("#!/bin/sh\n{script}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    SourceOptions { ffmpeg: path, ..SourceOptions::default() }
}

#[cfg(unix)]
#[test]
fn a_video_is_read_through_a_child_process() {
    let files = Files::new();
    let video = files.write("clip.mp4", b"\x00\x00\x00\x18ftypmp42");
    let pictures: Vec<Vec<u8>> = (0..3).map(|shade| jpeg(shade * 80)).collect();
    let stream = files.write("stream", &pictures.concat());
    let options = fake_ffmpeg(&files, &format!("cat '{}'", stream.display()));
    let found: Vec<Vec<u8>> = all(&video, &options).into_iter().map(|p| p.bytes).collect();
    assert_eq!(found, pictures);
    let options = fake_ffmpeg(&files, "echo 'clip.mp4: moov atom not found' >&2; exit 187");
    let words = fault(&video, &options);
    assert!(words.contains("moov atom not found") && words.contains("187"), "{words}");
    let options = SourceOptions { ffmpeg: PathBuf::from("no-such-ffmpeg"), ..SourceOptions::default() };
    let words = fault(&video, &options);
    assert!(words.contains("install ffmpeg"), "{words}");
    // A source that is dropped ends its child: this one would never end by itself.
    let options = fake_ffmpeg(&files, &format!("while :; do cat '{}'; done", stream.display()));
    let mut endless = source::open(&video, &options).unwrap();
    assert!(endless.next().unwrap().is_ok());
    drop(endless);
}

fn mock(partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("frames", partitions, 1).unwrap();
    cluster
}

fn feed_options(bootstrap: String) -> FeedOptions {
    let kafka = vec![("message.max.bytes".to_owned(), "20000".to_owned())];
    FeedOptions { bootstrap, topic: "frames".to_owned(), cameras: 3, rate: None, kafka }
}

#[allow(clippy::unnecessary_wraps, reason = "it stands for what a source yields")]
fn picture(number: usize, length: usize) -> Result<Picture, SourceError> {
    let bytes = vec![number as u8; length];
    Ok(Picture { name: format!("frame {number}"), bytes, content_type: "image/png".to_owned(), label: None })
}

/// A frame as it stands in the topic.
struct Record {
    partition: i32,
    camera: String,
    content_type: String,
    first_byte: u8,
}

fn consume(bootstrap: &str, count: usize) -> Vec<Record> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "test")
        .set("auto.offset.reset", "earliest")
        .create()
        .unwrap();
    consumer.subscribe(&["frames"]).unwrap();
    let mut records = Vec::new();
    let deadline = Instant::now() + Duration::from_mins(1);
    while records.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", records.len());
        // A poll that only served a rebalance gives nothing.
        let Some(message) = consumer.poll(Duration::from_secs(1)) else {
            continue;
        };
        let message = message.unwrap();
        let header = message.headers().unwrap().get(0);
        assert_eq!(header.key, "content-type");
        assert!(message.timestamp().to_millis().is_some_and(|ms| ms > 1_600_000_000_000));
        records.push(Record {
            partition: message.partition(),
            camera: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
            content_type: String::from_utf8(header.value.unwrap().to_vec()).unwrap(),
            first_byte: message.payload().unwrap()[0],
        });
    }
    records
}

#[test]
fn the_feeder_plays_cameras_in_turn_and_keeps_each_ones_order() {
    let cluster = mock(4);
    let options = feed_options(cluster.bootstrap_servers());
    let mut asked = 0;
    let pace = |_: &_| {
        asked += 1;
        if asked % 7 == 0 { Pace::Wait } else { Pace::Go }
    };
    let report = feed(&options, (0..60).map(|n| picture(n, 100)), &AtomicBool::new(false), pace).unwrap();
    assert_eq!((report.progress.sent, report.progress.delivered, report.progress.failed), (60, 60, 0));
    assert_eq!(report.progress.bytes, 6000);
    let mut cameras: HashMap<String, Vec<u8>> = HashMap::new();
    let mut homes: HashMap<String, i32> = HashMap::new();
    for record in consume(&options.bootstrap, 60) {
        assert_eq!(record.content_type, "image/png");
        assert_eq!(*homes.entry(record.camera.clone()).or_insert(record.partition), record.partition);
        cameras.entry(record.camera).or_default().push(record.first_byte);
    }
    for camera in 0..3 {
        let expected: Vec<u8> = (0..60).filter(|n| n % 3 == camera).collect();
        assert_eq!(cameras[&format!("camera-{}", camera + 1)], expected);
    }
}

#[test]
fn a_frame_that_kafka_refuses_is_counted_and_the_others_go_on() {
    let cluster = mock(1);
    let options = feed_options(cluster.bootstrap_servers());
    let pictures = (0..10).map(|n| picture(n, if n == 4 { 50_000 } else { 100 }));
    let report = feed(&options, pictures, &AtomicBool::new(false), |_| Pace::Go).unwrap();
    assert_eq!((report.progress.delivered, report.progress.failed), (9, 1));
    let reason = report.first_failure.unwrap();
    assert!(reason.contains("frame 4") && reason.contains("message.max.bytes"), "{reason}");
}

#[test]
fn the_stop_flag_ends_the_feeding_and_what_was_sent_is_delivered() {
    let cluster = mock(1);
    let options = feed_options(cluster.bootstrap_servers());
    let stop = AtomicBool::new(false);
    let report = feed(&options, (0..).map(|n| picture(n, 10)), &stop, |progress| {
        stop.store(progress.sent >= 20, std::sync::atomic::Ordering::Relaxed);
        Pace::Go
    });
    let report = report.unwrap();
    assert!(report.stopped);
    assert_eq!((report.progress.sent, report.progress.delivered), (20, 20));
}

#[test]
fn a_source_that_fails_in_the_middle_is_an_error() {
    let cluster = mock(1);
    let options = feed_options(cluster.bootstrap_servers());
    let files = Files::new();
    let source = source::open(&files.write("short", &pictures_idx()[..50]), &raw()).unwrap();
    let error = feed(&options, source, &AtomicBool::new(false), |_| Pace::Go).unwrap_err();
    assert!(matches!(error, FeedError::Source(_)), "{error}");
    assert_eq!(consume(&options.bootstrap, 2).len(), 2, "the frames in front of it are delivered");
}

#[test]
fn settings_that_kafka_does_not_know_are_refused() {
    let mut options = feed_options("localhost:1".to_owned());
    options.kafka = vec![("no.such.setting".to_owned(), "1".to_owned())];
    let error = feed(&options, (0..1).map(|n| picture(n, 1)), &AtomicBool::new(false), |_| Pace::Go).unwrap_err();
    assert!(error.to_string().contains("no.such.setting"), "{error}");
}

proptest! {
    #[test]
    fn whatever_is_in_a_file_a_source_gives_frames_or_errors_and_ends(
        kind in 0..5_usize, bytes in prop::collection::vec(any::<u8>(), 0..300)
    ) {
        let files = Files::new();
        let start: [&[u8]; 5] = [&[0, 0, 8, 3], b"\x93NUMPY\x01\x00\x40\x00", &[0x1F, 0x8B, 8, 0], b"\xFF\xD8\xFF", b""];
        let names = ["a.idx", "a.npy", "a.gz", "a.mjpeg", "a.npy"];
        let path = files.write(names[kind], &[start[kind], &bytes].concat());
        let options = SourceOptions { ffmpeg: PathBuf::from("no-such-ffmpeg"), ..raw() };
        if let Ok(source) = source::open(&path, &options) {
            prop_assert!(source.count() <= 1000);
        }
    }

    #[test]
    fn a_split_stream_gives_back_its_pictures_however_much_lies_between(
        gaps in prop::collection::vec(prop::collection::vec(0_u8..0xFF, 0..40), 1..8)
    ) {
        let files = Files::new();
        let pictures: Vec<Vec<u8>> = (0..gaps.len()).map(|n| jpeg(n as u8 * 30)).collect();
        let stream: Vec<u8> = pictures.iter().zip(&gaps).flat_map(|(p, gap)| [&gap[..], &p[..]].concat()).collect();
        let found: Vec<_> =
            all(&files.write("a.mjpeg", &stream), &SourceOptions::default()).into_iter().map(|p| p.bytes).collect();
        prop_assert_eq!(found, pictures);
    }
}
