//! What the chaos tool knows that others can use: the judgement of recorded histories. The program itself is in `main.rs`; nothing here
//! opens a socket, starts a process or looks at a clock.

pub mod linearizability;
