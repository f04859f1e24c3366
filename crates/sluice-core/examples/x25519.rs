//! What X25519 alone costs, in microseconds: the bound of handshakes in `bench/wghandshakes.py`.

use std::{hint::black_box, time::Instant};
use x25519_dalek::{PublicKey, StaticSecret};

const ROUNDS: usize = 21;
const AT_ONCE: u32 = 200;

fn main() {
    let secret = StaticSecret::from([7; 32]);
    let point = PublicKey::from(&StaticSecret::from([9; 32]));
    let base = median(|| *PublicKey::from(black_box(&secret)).as_bytes());
    let shared = median(|| *black_box(&secret).diffie_hellman(black_box(&point)).as_bytes());
    println!("{{\"base\": {base:.3}, \"shared\": {shared:.3}}}");
}

/// The median of some rounds: others use the machine too.
fn median(work: impl Fn() -> [u8; 32]) -> f64 {
    let mut rounds = [0.0; ROUNDS];
    for round in &mut rounds {
        let start = Instant::now();
        (0..AT_ONCE).for_each(|_| {
            black_box(work());
        });
        *round = start.elapsed().as_secs_f64() * 1e6 / f64::from(AT_ONCE);
    }
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}
