//! What X25519 alone costs, in microseconds: the bound of handshakes in `bench/wghandshakes.py`.
//!
//! `x25519 [ROUNDS]`: many rounds keep a core busy while another one is measured.

use std::{hint::black_box, time::Instant};
use x25519_dalek::{PublicKey, StaticSecret};

const AT_ONCE: u32 = 200;

fn main() {
    let rounds = std::env::args().nth(1).map_or(21, |text| text.parse().expect("ROUNDS is a number"));
    let secret = StaticSecret::from([7; 32]);
    let point = PublicKey::from(&StaticSecret::from([9; 32]));
    let base = median(rounds, || *PublicKey::from(black_box(&secret)).as_bytes());
    let shared = median(rounds, || *black_box(&secret).diffie_hellman(black_box(&point)).as_bytes());
    println!("{{\"base\": {base:.3}, \"shared\": {shared:.3}}}");
}

/// The median of the rounds: others use the machine too.
fn median(rounds: usize, work: impl Fn() -> [u8; 32]) -> f64 {
    let mut found = vec![0.0; rounds];
    for round in &mut found {
        let start = Instant::now();
        for _ in 0..AT_ONCE {
            black_box(work());
        }
        *round = start.elapsed().as_secs_f64() * 1e6 / f64::from(AT_ONCE);
    }
    found.sort_by(f64::total_cmp);
    found[rounds / 2]
}
