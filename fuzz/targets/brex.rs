//! See `sluicegate_fuzz::brex`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::brex::check(data));
