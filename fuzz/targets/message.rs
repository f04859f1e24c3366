//! See `sluicegate_fuzz::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::message::check(data));
