//! What is broken, when, and how: a schedule that the seed alone decides ([`schedule`]), what a fault means for the links between nodes
//! ([`links`]), and the one who carries it out on a scratch cluster ([`nemesis`]). The first two are pure.

pub(crate) mod links;
pub(crate) mod nemesis;
pub(crate) mod schedule;
