//! The chaos tool.

fn main() {}
