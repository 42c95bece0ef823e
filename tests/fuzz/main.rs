//! Fuzzing as far as every test run goes: the corpus replayed, and property tests that call the same entry points with drawn bytes.
//! `make fuzz` goes on from here with coverage as its guide.
//!
//! | module | what is in it |
//! |---|---|
//! | `targets` | the entry points, also compiled into the cargo-fuzz programs |
//! | `corpus` | the sound inputs that the corpus begins with, and the replay of all its files |
//! | `properties` | drawn inputs: any bytes, mutated files of the corpus, mutated data directories |

mod corpus;
mod properties;
mod targets;
