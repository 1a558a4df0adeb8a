//! Goal: what is typed wrong is told at once, whole, with exit code 64, and never hangs or panics.
//! Method: command lines as they are typed, run in this process; no broker and no model but those of the tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use clap::Parser as _;
use offramp::cli::{Cli, EXIT_USAGE, exit_code, told};
use offramp::fleet::store::read_all;
use rdkafka::mocking::MockCluster;

/// The exit code and the message of a command line that must fail.
fn fails(line: &[&str]) -> (u8, String) {
    let typed = Cli::try_parse_from(["offramp"].iter().chain(line));
    match typed.map_err(anyhow::Error::from).and_then(Cli::execute) {
        Ok(()) => panic!("{line:?} must fail"),
        Err(error) if error.is::<clap::Error>() => (EXIT_USAGE, error.to_string()),
        Err(error) => (exit_code(&error), told(&error)),
    }
}

#[test]
fn a_worker_does_not_start_with_a_wrong_setting() {
    for (set, key) in [("log.level=[[[", "log.level"), ("heads.hmac_key_file=/no/key", "heads.hmac_key_file")] {
        for command in [&["run"][..], &["check", "--offline", "--set=model.path=/no/model"]] {
            let (code, told) = fails(&[command, &["--set", set]].concat());
            assert!(code == EXIT_USAGE && told.contains(key), "{command:?}: {code}, {told}");
        }
    }
}

#[test]
fn what_librdkafka_refuses_is_a_wrong_setting_and_not_an_outage() {
    let wrong = ["--set", "kafka.properties.foo=bar", "--set", "kafka.properties.socket.timeout.ms=soon"];
    let together = ["--set", "kafka.properties.max.poll.interval.ms=1000"];
    for command in
        [&["run"][..], &["check", "--offline", "--set=model.path=/no/model"], &["topics", "create"], &["heads", "ls"]]
    {
        let (at, rest) = command.split_at(1);
        let (code, told) = fails(&[at, &wrong[..], rest].concat());
        assert!(code == EXIT_USAGE && told.contains("kafka.properties.foo"), "{command:?}: {code}, {told}");
        assert!(told.contains("kafka.properties.socket.timeout.ms"), "{told}");
        let (code, told) = fails(&[at, &together[..], rest].concat());
        assert!(code == EXIT_USAGE && told.contains("kafka.properties (librdkafka)"), "{command:?}: {code}, {told}");
    }
}

#[test]
fn no_limit_is_too_long_for_the_clock() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("heads", 1, 1).unwrap();
    let mut client = rdkafka::ClientConfig::new();
    client.set("bootstrap.servers", cluster.bootstrap_servers()).set("group.id", "reader");
    client.set("auto.offset.reset", "earliest");
    assert!(read_all(&mut client, "heads", std::time::Duration::MAX).unwrap().is_empty());
}

#[test]
fn arguments_are_proved_before_anything_begins() {
    let replay = ["replay", "--model=/no/model", "--frames=/no/frames"];
    let numbers = ["epsilon", "delta", "audit-floor", "drift-from", "measure-from", "batch", "threads", "limit"];
    for (option, wrong) in numbers.iter().flat_map(|option| ["-3", "9e9", "nan", "x"].map(|wrong| (option, wrong))) {
        let argument = format!("--{option}={wrong}");
        let (code, told) = fails(&[&replay[..], &[argument.as_str()]].concat());
        assert!(code == EXIT_USAGE && told.contains(option), "{argument}: {code}, {told}");
    }
    let feed = ["feed", "--topic=t", "--frames=/no/frames"];
    for line in [&replay[..], &feed, &["demo"], &["inspect", "/no/model"]] {
        let arguments = match line.first() {
            Some(&"demo") => {
                vec!["--rate=1e-300", "--rate=nan", "--cameras=0", "--workers=0", "--frames=0", "--log=[[["]
            }
            Some(&"feed") => vec!["--rate=1e-300", "--rate=inf", "--rate=0"],
            Some(&"inspect") => vec!["--threads=0"],
            _ => vec!["--log=[[["],
        };
        for argument in arguments {
            let (code, told) = fails(&[line, &[argument]].concat());
            assert_eq!(code, EXIT_USAGE, "{line:?} {argument}: {told}");
        }
    }
}

/// What would hang is told by the test's time running out.
#[test]
fn what_is_no_regular_file_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.onnx");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = pipe.display().to_string();
    for path in ["/dev/zero", "/dev/null", &pipe] {
        let (_, told) = fails(&["inspect", path]);
        assert!(told.contains(&format!("{path}: is no regular file")), "{told}");
    }
    let secret = format!("heads.hmac_key_file={pipe}");
    let (code, told) = fails(&["check", "--offline", "--set=model.path=/no/model", "--set", &secret]);
    assert!(code == EXIT_USAGE && told.contains("is no regular file"), "{told}");
}

#[test]
fn settings_may_stand_before_and_after_what_is_to_be_done() {
    for (command, action) in [("heads", "ls"), ("heads", "show"), ("topics", "create")] {
        for (before, after) in
            [(&[][..], &["--set=oops"][..]), (&["--set=oops"], &[]), (&["--set=oops"], &["--set=uhm"])]
        {
            let (code, told) = fails(&[&[command][..], before, &[action], after].concat());
            assert_eq!(code, EXIT_USAGE, "{told}");
            for set in before.iter().chain(after).filter_map(|set| set.strip_prefix("--set=")) {
                assert!(told.contains(&format!("{set} (--set)")), "{command} {before:?} {action} {after:?}: {told}");
            }
        }
        let (code, told) = fails(&[command, action, "--config", "/no/file.toml"]);
        assert!(code == EXIT_USAGE && told.contains("/no/file.toml"), "{told}");
    }
}

/// The model does not exist: whoever loads it first says so.
#[test]
fn a_taken_port_is_told_before_the_model_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("http.listen={}", taken.local_addr().unwrap());
    let (_, told) = fails(&["run", "--set", &listen, "--set", "model.path=/no/model"]);
    assert!(told.contains("http.listen") && !told.contains("/no/model"), "{told}");
}

#[test]
fn a_reason_is_said_once() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = std::net::TcpListener::bind(taken.local_addr().unwrap()).unwrap_err();
    let missing = std::fs::File::open("/no/such").unwrap_err().to_string();
    let (_, unread) = fails(&["feed", "--topic=t", "--frames=/no/such"]);
    assert_eq!(unread.matches(&missing).count(), 1, "{unread}");
    let address = taken.local_addr().unwrap();
    let error = offramp::observe::http::HttpError::Bind { address, source: busy };
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(told(&anyhow::Error::from(error).context("starting")).matches(&reason).count(), 1);
}

#[test]
fn exits_are_named_as_they_were_typed() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models/residual_bn.onnx");
    let (_, told) = fails(&["inspect", model, "--exits=200,201"]);
    assert!(told.contains("exits 200, 201 are not"), "{told}");
}
