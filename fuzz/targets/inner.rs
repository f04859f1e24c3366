//! See `sluicegate_fuzz::inner`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::inner::check(data));
