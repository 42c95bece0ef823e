//! The client port from outside: real sockets in front, a scripted Raft thread behind. Needs no cluster and no disk.
//!
//! | file | what |
//! |---|---|
//! | `harness` | the scripted Raft thread and a client that speaks raw frames |
//! | `commands` | each command's answers, plain and extended |
//! | `order` | pipelining, outcomes out of order, what reads see |
//! | `bad_input` | frames that break the rules, in every way |
//! | `limits` | caps, time limits, clients that misbehave, stopping |

mod bad_input;
mod commands;
mod early;
mod engine;
mod harness;
mod limits;
mod order;
