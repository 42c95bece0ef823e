//! The bytes of a simulated file, in pages that copies share until one of them is written. Pages that were never written take no memory,
//! so that large reserved files and copies of whole disks cost next to nothing.

use std::sync::Arc;

/// Bytes of a page; a multiple of the sector.
const PAGE: usize = 4096;

/// Bytes from 0 up to a length; what was never written is zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pages: Vec<Option<Arc<[u8; PAGE]>>>,
    length: usize,
}

impl Content {
    pub(super) fn new(bytes: &[u8]) -> Content {
        let mut content = Content::default();
        content.resize(bytes.len());
        content.write(bytes, 0);
        content
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Grows with zeros, or forgets what lies behind `length`.
    pub(super) fn resize(&mut self, length: usize) {
        self.pages.resize(length.div_ceil(PAGE), None);
        if let Some(Some(page)) = self.pages.last_mut()
            && length < self.length
            && !length.is_multiple_of(PAGE)
        {
            Arc::make_mut(page)[length % PAGE..].fill(0);
        }
        self.length = length;
    }

    /// Writes within the length.
    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        assert!(offset + bytes.len() <= self.length, "{} bytes at {offset} exceed {} bytes", bytes.len(), self.length);
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let (start, page) = (at % PAGE, &mut self.pages[at / PAGE]);
            let (now, later) = rest.split_at(rest.len().min(PAGE - start));
            let page = page.get_or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[start..start + now.len()].copy_from_slice(now);
            at += now.len();
            rest = later;
        }
    }

    /// Fills the buffer from within the length.
    pub(super) fn read(&self, buffer: &mut [u8], offset: usize) {
        assert!(offset + buffer.len() <= self.length, "{} bytes at {offset} exceed {} bytes", buffer.len(), self.length);
        let mut rest = buffer;
        let mut at = offset;
        while !rest.is_empty() {
            let start = at % PAGE;
            let (now, later) = rest.split_at_mut(rest.len().min(PAGE - start));
            match &self.pages[at / PAGE] {
                Some(page) => now.copy_from_slice(&page[start..start + now.len()]),
                None => now.fill(0),
            }
            at += now.len();
            rest = later;
        }
    }

    /// Takes over `bytes` bytes at `offset` from another content, growing to reach there. A whole page is shared, not copied.
    pub(super) fn take(&mut self, other: &Content, offset: usize, bytes: usize) {
        self.resize(self.length.max(offset + bytes));
        let mut at = offset;
        while at < offset + bytes {
            let some = (offset + bytes - at).min(PAGE - at % PAGE);
            match &other.pages[at / PAGE] {
                whole if some == PAGE => self.pages[at / PAGE].clone_from(whole),
                Some(page) => self.write(&page[at % PAGE..at % PAGE + some], at),
                None => self.write(&[0; PAGE][..some], at),
            }
            at += some;
        }
    }

    /// Whether both hold the same there.
    pub(super) fn equals(&self, other: &Content, offset: usize, bytes: usize) -> bool {
        let mut at = offset;
        while at < offset + bytes {
            let some = (offset + bytes - at).min(PAGE - at % PAGE);
            let part = at % PAGE..at % PAGE + some;
            let same = match (&self.pages[at / PAGE], &other.pages[at / PAGE]) {
                (Some(here), Some(there)) => Arc::ptr_eq(here, there) || here[part.clone()] == there[part],
                (None, None) => true,
                (Some(page), None) | (None, Some(page)) => page[part].iter().all(|byte| *byte == 0),
            };
            if !same {
                return false;
            }
            at += some;
        }
        true
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        self.read(&mut bytes, 0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_behaves_like_a_plain_vector_and_copies_stay_what_they_are() {
        let (mut content, mut plain) = (Content::new(b"abc"), b"abc".to_vec());
        content.resize(10_000);
        plain.resize(10_000, 0);
        for (at, byte) in [(1, 1), (4090, 2), (8000, 3), (9000, 4)] {
            let bytes = vec![byte; 1000.min(10_000 - at)];
            content.write(&bytes, at);
            plain[at..at + bytes.len()].copy_from_slice(&bytes);
            assert_eq!(content.to_vec(), plain);
        }
        let copy = content.clone();
        content.write(&[9; 5000], 3000);
        assert_eq!(copy.to_vec(), plain);
        content.take(&copy, 3000, 5000);
        assert_eq!(content.to_vec(), plain);
        content.resize(4100);
        content.resize(5000);
        plain.truncate(4100);
        plain.resize(5000, 0);
        assert_eq!(content.to_vec(), plain);
        let mut shorter = Content::default();
        shorter.take(&content, 4000, 200);
        assert_eq!(shorter.to_vec()[4000..], plain[4000..4200]);
        assert!(shorter.equals(&content, 4000, 200));
    }
}
