//! See `targets`.
#![no_main]

#[allow(dead_code, reason = "each program has one of them")]
#[path = "../targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::peer::peer_frames(data));
