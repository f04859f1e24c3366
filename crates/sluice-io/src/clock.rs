//! The machine's clocks.

use rustix::time::{ClockId, clock_gettime};
use sluice_core::{Now, time::SECOND};
use std::time::{SystemTime, UNIX_EPOCH};

/// Reads both clocks. `mono` also counts the time that the machine was suspended (CLOCK_BOOTTIME): keys, sessions and
/// packets that wait grow old by the time that passed.
pub fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime);
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: boot.tv_sec as u64 * SECOND + boot.tv_nsec as u64, unix_ms: unix.as_millis() as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[ignore = "a part of the test below"]
    fn shows_the_clock() {
        println!("mono={}", now().mono);
    }

    #[test]
    fn time_in_which_the_machine_was_suspended_counts() {
        // A namespace that claims a suspension: its CLOCK_BOOTTIME is ahead, its CLOCK_MONOTONIC is not.
        const SLEPT: u64 = 10_000_000;
        let shown = |command: &mut Command| {
            let exe = std::env::current_exe().unwrap();
            command.arg(exe).args(["--exact", "clock::tests::shows_the_clock", "--ignored", "--nocapture"]);
            let text = String::from_utf8(command.output().ok()?.stdout).unwrap();
            text.lines().find_map(|line| line.split_once("mono=")?.1.parse::<u64>().ok())
        };
        let slept = shown(Command::new("unshare").args(["--time", "--boottime", &SLEPT.to_string()]));
        let Some(slept) = slept else { return eprintln!("skipped: needs root and unshare(1) with --time") };
        assert!(slept >= now().mono + (SLEPT - 600) * SECOND, "{slept}");
    }

    #[test]
    fn the_wall_clock_is_the_systems() {
        let unix_ms = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let before = unix_ms();
        let shown = now().unix_ms;
        assert!((before..=unix_ms()).contains(&shown));
    }
}
