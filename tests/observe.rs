//! What the outside sees: every metric of the table is exported as it says, probes tell what is missing, and the HTTP side
//! answers. Real sockets on loopback; the clock of health is made up.

#![allow(clippy::unwrap_used, clippy::panic, clippy::let_underscore_must_use, reason = "a test fails by panicking")]
#![allow(clippy::float_cmp, reason = "counters count")]

mod learn_support;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use offramp::frame::RejectReason;
use offramp::learn::SampleRejection;
use offramp::observe::health::{Condition, Health};
use offramp::observe::http::{self, Shown};
use offramp::observe::metrics::{
    BuildInfo, Kind, Metrics, Outcome, Queue, Rebalance, SampleOutcome, Stage, TABLE, markdown,
};
use offramp::observe::telemetry::Telemetry;
use offramp::plan::ExitId;

/// How to get it.
const PROMTOOL: &str = "run make test, or install Prometheus (Debian: apt-get install prometheus)";

fn metrics() -> Arc<Metrics> {
    Metrics::new(BuildInfo { version: "1.2.3", backbone: "abc", plan: "def" }, 8).unwrap()
}

/// Everything once, so that no series is missing.
fn exercise(metrics: &Metrics) {
    metrics.answered(Some(ExitId(1)), Duration::from_millis(3));
    metrics.answered(None, Duration::from_millis(8));
    metrics.dead_letter(RejectReason::Corrupt);
    for stage in Stage::ALL {
        metrics.stage(*stage, Duration::from_micros(700));
    }
    metrics.samples(SampleOutcome::Dropped, 2);
    metrics.rebalance(Rebalance::Assign);
    metrics.snapshot("adopted", "");
    metrics.snapshot("rejected", "checksum");
    metrics.exit_in_force(ExitId(2), 7, Some(0.93));
    metrics.set_lag(&Arc::from("frames"), 3, 42);
    metrics.batch_size.record(8.0);
    metrics.queue_seconds.record(0.002);
    metrics.frame_age_seconds.record(0.02);
}

/// Values by name and labels, as exported.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(key, value)| (key.to_owned(), value.parse().unwrap()))
        .collect()
}

#[test]
fn every_metric_of_the_table_is_exported_with_its_kind_help_and_labels() {
    let metrics = metrics();
    exercise(&metrics);
    let text = metrics.render();
    for spec in TABLE {
        let head = format!("# HELP {} {}\n# TYPE {} {}\n", spec.name, spec.help, spec.name, spec.kind.as_str());
        assert!(text.contains(&head), "{} is missing or described otherwise", spec.name);
        let name = if spec.kind == Kind::Histogram { format!("{}_bucket", spec.name) } else { spec.name.to_owned() };
        let series =
            text.lines().find(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")));
        let series = series.unwrap_or_else(|| panic!("{name} has no series"));
        for label in spec.labels {
            assert!(series.contains(&format!("{label}=\"")), "{series} lacks the label {label}");
        }
        assert_eq!(spec.kind == Kind::Counter, spec.name.ends_with("_total"), "{}", spec.name);
        assert_eq!(spec.kind == Kind::Histogram, !spec.buckets.is_empty(), "{}", spec.name);
        assert!(spec.buckets.is_sorted_by(|a, b| a < b), "{}", spec.name);
    }
    let exported = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    for name in exported.filter(|name| !name.starts_with("process_")) {
        assert!(TABLE.iter().any(|spec| spec.name == name), "{name} is not in the table");
    }
}

#[test]
fn the_numbers_are_what_happened() {
    let metrics = metrics();
    exercise(&metrics);
    let values = parse(&metrics.render());
    assert_eq!(values[r#"offramp_frames_total{outcome="exit"}"#], 1.0);
    assert_eq!(values[r#"offramp_frames_total{outcome="full"}"#], 1.0);
    assert_eq!(values[r#"offramp_frames_total{outcome="dead_letter"}"#], 1.0);
    assert_eq!(values[r#"offramp_exits_total{exit="1"}"#], 1.0);
    assert_eq!(values[r#"offramp_exits_total{exit="full"}"#], 1.0);
    assert_eq!(values[r#"offramp_dead_letters_total{reason="corrupt"}"#], 1.0);
    assert_eq!(values[r#"offramp_latency_seconds_bucket{exit="1",le="0.002"}"#], 0.0);
    assert_eq!(values[r#"offramp_latency_seconds_bucket{exit="1",le="0.003"}"#], 1.0);
    assert_eq!(values[r#"offramp_latency_seconds_count{exit="full"}"#], 1.0);
    assert_eq!(values[r#"offramp_heads_version{exit="2"}"#], 7.0);
    assert_eq!(values[r#"offramp_exit_threshold{exit="2"}"#], 0.93);
    assert!(values[r#"offramp_exit_threshold{exit="1"}"#].is_nan());
    assert_eq!(values[r#"offramp_lag{topic="frames",partition="3"}"#], 42.0);
    assert_eq!(values["offramp_hit_ratio"], 0.5);
    assert_eq!(metrics.totals().finished(), 3);
    assert_eq!(Outcome::ALL.len(), 3);
}

#[test]
fn a_partition_that_was_taken_away_is_not_reported_any_more() {
    let metrics = metrics();
    let topic = Arc::from("frames");
    metrics.set_lag(&topic, 0, 5);
    metrics.set_lag(&topic, 1, 6);
    metrics.forget_lag(&topic, 0);
    let values = parse(&metrics.render());
    assert!(!values.contains_key(r#"offramp_lag{topic="frames",partition="0"}"#));
    assert_eq!(values[r#"offramp_lag{topic="frames",partition="1"}"#], 6.0);
}

#[test]
fn queues_show_what_waits_in_them() {
    let metrics = metrics();
    let depth =
        |queue: Queue| parse(&metrics.render())[&format!("offramp_queue_depth{{queue=\"{}\"}}", queue.as_str())];
    let (first, second) = (metrics.waits(Queue::Lanes), metrics.waits(Queue::Lanes));
    assert_eq!((depth(Queue::Lanes), depth(Queue::Answers)), (2.0, 0.0));
    drop(first);
    assert_eq!(depth(Queue::Lanes), 1.0);
    drop(second);
    assert_eq!(depth(Queue::Lanes), 0.0);
}

#[test]
fn the_hit_ratio_forgets_what_is_older_than_a_minute() {
    let metrics = metrics();
    assert_eq!(metrics.hit_ratio(), None);
    (0..10).for_each(|_| metrics.answered(None, Duration::ZERO));
    assert_eq!(metrics.hit_ratio(), Some(0.0));
    (0..13).for_each(|_| metrics.tick());
    assert_eq!(metrics.hit_ratio(), None);
    metrics.answered(Some(ExitId(8)), Duration::ZERO);
    assert_eq!(metrics.hit_ratio(), Some(1.0));
}

/// One test for a bug: samples that were unfit to learn from were one number, whatever the reason.
#[test]
fn rejected_samples_are_counted_by_reason() {
    let metrics = metrics();
    metrics.sample_rejected(&SampleRejection::Number("a weight"));
    metrics.sample_rejected(&SampleRejection::Duplicate);
    metrics.sample_rejected(&SampleRejection::Duplicate);
    metrics.samples(SampleOutcome::Sent, 4);
    let values = parse(&metrics.render());
    let rejected = |reason: &str| values[&format!("offramp_samples_total{{outcome=\"rejected\",reason=\"{reason}\"}}")];
    assert_eq!([rejected("number"), rejected("duplicate"), rejected("clock")], [1.0, 2.0, 0.0]);
    assert_eq!(values[r#"offramp_samples_total{outcome="sent",reason=""}"#], 4.0);
}

/// One test for a bug: what audits and copies cost more than the plain model was in no number that could be plotted.
#[test]
fn a_loss_of_flops_shows() {
    let telemetry = Telemetry::new("one", &Arc::new(learn_support::plan(&[12], 4))).unwrap();
    telemetry.flops(1100, 1000);
    telemetry.flops(1000, 0);
    let values = parse(&telemetry.metrics().render());
    let total = |what: &str| values[&format!("offramp_flops_{what}_total")];
    assert_eq!([total("spent"), total("plain"), total("saved")], [2100.0, 1000.0, 0.0]);
}

#[test]
fn two_workers_in_one_process_do_not_mix() {
    let (one, other) = (metrics(), metrics());
    one.frames_received.increment(3);
    assert_eq!(parse(&one.render())["offramp_frames_received_total"], 3.0);
    assert_eq!(parse(&other.render())["offramp_frames_received_total"], 0.0);
}

#[test]
fn only_the_plans_exits_have_series() {
    let metrics = Metrics::new(BuildInfo { version: "1", backbone: "b", plan: "p" }, 2).unwrap();
    metrics.answered(Some(ExitId(2)), Duration::ZERO);
    metrics.answered(None, Duration::ZERO);
    metrics.answered(Some(ExitId(3)), Duration::ZERO);
    let values = parse(&metrics.render());
    let exits: Vec<_> = values.iter().filter(|(name, _)| name.starts_with("offramp_exits_total")).collect();
    assert_eq!(exits.len(), 3, "{exits:?}");
    assert_eq!(values[r#"offramp_exits_total{exit="2"}"#], 1.0);
    assert_eq!(values[r#"offramp_exits_total{exit="full"}"#], 1.0);
    assert_eq!(metrics.totals().early(), 2, "an exit that the plan does not have is still counted");
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let metrics = metrics();
    exercise(&metrics);
    let spawned =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = spawned else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "promtool is missing: {PROMTOOL}");
        // Past the harness, which keeps what a passing test prints to itself.
        writeln!(std::io::stderr(), "SKIPPED: promtool is missing: {PROMTOOL}").unwrap();
        return;
    };
    promtool.stdin.take().unwrap().write_all(metrics.render().as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_markdown_table_has_a_line_for_every_metric() {
    let text = markdown();
    assert!(TABLE.iter().all(|spec| text.contains(&format!("| `{}` | {} |", spec.name, spec.kind.as_str()))));
    assert!(text.lines().all(|line| line.matches('|').count() == 6), "{text}");
}

#[test]
fn readiness_names_what_is_missing() {
    let now = Instant::now();
    let health = Health::new(now, Duration::from_secs(10));
    let missing = |health: &Health| -> Vec<String> { health.ready(now).missing.into_iter().map(|m| m.what).collect() };
    assert_eq!(missing(&health), ["model-loaded", "broker-reachable", "heads-read", "assignment-held"]);
    for condition in Condition::ALL {
        health.set(condition, true);
    }
    assert!(health.ready(now).ok && health.started().ok);
    health.set(Condition::AssignmentHeld, false);
    assert_eq!(missing(&health), ["assignment-held"]);
    assert!(health.live(now).ok, "a lost assignment is nothing that a restart cures");
    health.set(Condition::AssignmentHeld, true);
    health.drain();
    assert_eq!(missing(&health), ["draining"]);
}

#[test]
fn a_stuck_or_lost_thread_ends_liveness_and_a_waiting_or_retired_one_does_not() {
    let start = Instant::now();
    let health = Health::new(start, Duration::from_secs(10));
    let lane = health.heartbeat("lane-1", start);
    let much_later = start + Duration::from_secs(11);
    assert!(health.live(start + Duration::from_secs(9)).ok);
    assert_eq!(health.live(much_later).missing[0].what, "lane-1");
    lane.beat(much_later);
    assert!(health.live(much_later).ok);
    lane.park();
    assert!(health.live(much_later + Duration::from_hours(1)).ok);
    lane.retire();
    assert!(health.live(much_later).ok);
    let other = health.heartbeat("lane-2", start);
    let crash = std::thread::spawn(move || {
        let _other = other;
        panic!("a lane's panic, on purpose");
    });
    assert!(crash.join().is_err());
    assert_eq!(health.live(start).missing[0].why, "the thread ended unexpectedly");
}

/// One request, the whole answer.
async fn request(address: SocketAddr, path: &'static str) -> (u16, String) {
    let exchange = move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Goal: a model so slow that a batch takes longer than the usual minute does not get its worker restarted; what was known before
/// is never shortened.
#[test]
fn a_slow_model_is_borne_with() {
    let start = Instant::now();
    let health = Health::new(start, Duration::from_mins(1));
    let _lane = health.heartbeat("lane-1", start);
    health.bear_with(Duration::from_secs(5));
    assert!(health.live(start + Duration::from_secs(59)).ok);
    assert!(!health.live(start + Duration::from_secs(61)).ok);
    health.bear_with(Duration::from_secs(90));
    assert!(health.live(start + Duration::from_secs(89)).ok);
    assert!(!health.live(start + Duration::from_secs(91)).ok);
}

/// Goal: while the model loads the worker is live, says what is missing, and tells no numbers that it does not have.
#[tokio::test]
async fn the_probes_answer_before_the_model_is_loaded() {
    let health = Health::new(Instant::now(), Duration::from_mins(1));
    let listener = http::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = Arc::new(OnceLock::new());
    let server = tokio::spawn(http::serve(listener, Arc::clone(&health), Arc::clone(&shown), std::future::pending()));
    assert_eq!(request(address, "/livez").await.0, 200);
    for path in ["/readyz", "/startupz", "/metrics", "/status"] {
        let (code, body) = request(address, path).await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, body["missing"][0]["what"].as_str()), (503, Some("model-loaded")), "{path}");
    }
    shown.get_or_init(|| Shown { metrics: metrics(), status: Arc::new(|| serde_json::json!({"worker": "w-1"})) });
    assert_eq!(request(address, "/metrics").await.0, 200);
    assert_eq!(request(address, "/status").await.0, 200);
    server.abort();
}

#[tokio::test]
async fn the_endpoints_answer_until_shutdown() {
    let health = Health::new(Instant::now(), Duration::from_mins(1));
    let listener = http::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = http::bind(address).await.unwrap_err().to_string();
    assert!(taken.contains(&address.to_string()), "{taken}");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let status = Arc::new(|| serde_json::json!({"worker": "w-1"}));
    let shown = Arc::new(OnceLock::from(Shown { metrics: metrics(), status }));
    let server = tokio::spawn(http::serve(listener, Arc::clone(&health), shown, async {
        stopped.await.ok();
    }));
    assert_eq!(request(address, "/livez").await.0, 200);
    let (code, body) = request(address, "/readyz").await;
    assert_eq!(code, 503);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["missing"][2]["what"], "heads-read");
    assert_eq!(request(address, "/startupz").await.0, 503);
    for condition in Condition::ALL {
        health.set(condition, true);
    }
    assert_eq!(request(address, "/readyz").await, (200, r#"{"ok":true,"missing":[]}"#.to_owned()));
    assert_eq!(request(address, "/startupz").await.0, 200);
    assert_eq!(request(address, "/status").await, (200, r#"{"worker":"w-1"}"#.to_owned()));
    assert!(request(address, "/metrics").await.1.contains("offramp_build_info"));
    assert!(request(address, "/").await.1.contains("<title>offramp</title>"));
    assert_eq!(request(address, "/nothing").await.0, 404);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}
