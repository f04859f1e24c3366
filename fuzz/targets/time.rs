//! See `sluicegate_fuzz::time`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::time::check(data));
