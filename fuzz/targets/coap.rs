//! See `sluicegate_fuzz::coap`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sluicegate_fuzz::coap::check(data));
