//! Every seed through its target's check, without libFuzzer:
//! `cargo test --manifest-path fuzz/Cargo.toml --no-default-features`.

use std::{fs, path::Path};

fn replay(target: &str, check: fn(&[u8])) {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut files: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds for {target}");
    for file in files {
        println!("{}", file.display()); // shown when the check panics
        check(&fs::read(&file).unwrap());
    }
}

#[test]
fn message() {
    replay("message", sluicegate_fuzz::message::check);
}

#[test]
fn replies() {
    replay("replies", sluicegate_fuzz::replies::check);
}

#[test]
fn tag() {
    replay("tag", sluicegate_fuzz::tag::check);
}

#[test]
fn datagram() {
    replay("datagram", sluicegate_fuzz::datagram::check);
}

#[test]
fn brex() {
    replay("brex", sluicegate_fuzz::brex::check);
}

#[test]
fn coap() {
    replay("coap", sluicegate_fuzz::coap::check);
}

#[test]
fn time() {
    replay("time", sluicegate_fuzz::time::check);
}

#[test]
fn handshake() {
    replay("handshake", sluicegate_fuzz::handshake::check);
}

#[test]
fn tunnel() {
    replay("tunnel", sluicegate_fuzz::tunnel::check);
}

#[test]
fn inner() {
    replay("inner", sluicegate_fuzz::inner::check);
}
