//! The `leader-election` program.

fn main() {}
