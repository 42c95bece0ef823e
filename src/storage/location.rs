//! Where a record stands. Given once, when the record is appended, and never given to another record.

/// The place of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// Number of the segment.
    pub segment: u32,
    /// Where in the segment the record's header starts.
    pub offset: u32,
    /// Length of the whole record, header included.
    pub bytes: u32,
}
