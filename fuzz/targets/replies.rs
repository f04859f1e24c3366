//! See `sluicegate_fuzz::replies`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::replies::check(data));
