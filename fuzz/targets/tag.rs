//! See `sluicegate_fuzz::tag`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::tag::check(data));
