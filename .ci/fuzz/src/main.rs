//! Feeds libFuzzer's bytes to the reader as if they were a model file. Whatever it refuses it must refuse in words; a panic, a
//! hang or memory without bound is a finding.
#![no_main]

mod backbone;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| backbone::read(bytes));
