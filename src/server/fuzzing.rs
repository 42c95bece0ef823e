//! What fuzzing needs of the client port: the walk from received bytes to batches, without a socket. Changes nothing and serves nobody
//! else.

use super::batch::{Batch, End};
use super::clients::{ClientLimits, NodeView};
use super::metrics::Metrics;

/// What a connection's thread would make of some bytes.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Walked {
    /// Bytes of complete frames.
    pub consumed: usize,
    /// Size of the frame at the front of what was not consumed, as far as it can be told; 0 after a fault.
    pub frame_bytes: usize,
    /// How many frames were complete.
    pub frames: usize,
    /// The connection would be closed.
    pub fault: bool,
    /// The most that one batch has put into records.
    pub records_max: usize,
}

/// Walks `bytes` as a connection's thread does, batch after batch, and hands the unsealed records of each batch to `look`.
#[doc(hidden)]
pub fn walk_requests(bytes: &[u8], limits: &ClientLimits, view: &dyn NodeView, look: &mut dyn FnMut(&[u8])) -> Walked {
    let metrics = Metrics::default();
    let mut walked = Walked::default();
    loop {
        let batch = Batch::build(&bytes[walked.consumed..], walked.frames as u64, limits, view, &metrics);
        walked.consumed += batch.consumed;
        walked.frames += batch.entries.len();
        walked.records_max = walked.records_max.max(batch.records.len());
        look(&batch.records);
        match batch.end {
            End::Closed => assert!(batch.consumed > 0, "a batch is closed although it took nothing at {}", walked.consumed),
            End::Incomplete { frame_bytes, .. } => {
                walked.frame_bytes = frame_bytes;
                return walked;
            }
            End::Fault => {
                walked.fault = true;
                return walked;
            }
        }
    }
}
