//! Reading little-endian fields out of bytes that may be anything: every step is checked, nothing panics, nothing is reserved.
//! Used by the files whose payloads are lists of fields; records and batch headers have fixed offsets and do without.

/// The largest number that counts something (terms, indexes, boots, generations): no node reaches it, so whatever a file says, whoever
/// adds to a number that was accepted cannot overflow.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// A position in bytes that are read from front to back. Each call answers `None` when the bytes end too early.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Starts at the front of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }

    /// The next `length` bytes as they are.
    pub(super) fn slice(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.slice(N)?.try_into().ok()
    }

    /// Two bytes.
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Eight bytes that count something, at most [`NUMBER_MAX`].
    pub(super) fn number(&mut self) -> Option<u64> {
        self.u64().filter(|number| *number <= NUMBER_MAX)
    }

    /// Sixteen bytes.
    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// Text behind its two-byte length.
    pub(super) fn text(&mut self) -> Option<String> {
        let length = self.u16()?;
        String::from_utf8(self.slice(usize::from(length))?.to_vec()).ok()
    }

    /// How many bytes are left.
    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    /// Whether everything has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends text behind its two-byte length.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("ids are checked to be short when the command line is read");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}
