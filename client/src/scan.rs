//! Pages of a scan, checked before anyone believes them, and the iterator that strings them together.

use crate::client::Client;
use crate::error::Error;
use std::collections::VecDeque;

/// What a scan returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanOptions {
    /// Most pairs of a page; 0 is the server's default. The server may send fewer.
    pub page_limit: u32,
    /// Leave the values out.
    pub keys_only: bool,
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Vec<u8>,
    /// The version of the value.
    pub version: u64,
    /// The value; empty in a scan of keys only.
    pub value: Vec<u8>,
}

/// One page of a scan, all of it from one state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanPage {
    /// In byte order of the keys.
    pub pairs: Vec<Pair>,
    /// Whether there are further keys; the next page starts behind the last key of this one.
    pub more: bool,
}

/// The pairs of a scan, page after page. Ends after the first error.
#[derive(Debug)]
pub struct Scan<'a> {
    client: &'a mut Client,
    prefix: Vec<u8>,
    options: ScanOptions,
    page: VecDeque<Pair>,
    after: Vec<u8>,
    more: bool,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(client: &'a mut Client, prefix: &[u8], options: ScanOptions) -> Scan<'a> {
        Scan { client, prefix: prefix.to_vec(), options, page: VecDeque::new(), after: Vec::new(), more: true }
    }
}

impl Iterator for Scan<'_> {
    type Item = Result<Pair, Error>;

    fn next(&mut self) -> Option<Result<Pair, Error>> {
        if self.page.is_empty() && self.more {
            let page = match self.client.scan_page(&self.prefix, self.options, &self.after) {
                Ok(page) => page,
                Err(error) => {
                    self.more = false;
                    return Some(Err(error));
                }
            };
            self.more = page.more;
            self.page = page.pairs.into();
            if let Some(last) = self.page.back() {
                self.after.clone_from(&last.key);
            }
        }
        self.page.pop_front().map(Ok)
    }
}

/// Reads a page as the wire has it. Refuses keys that do not start with `prefix` or do not strictly grow from `after` on, and a page
/// that promises more and holds nothing: each of them would make a caller loop.
#[doc(hidden)]
pub fn decode_page(payload: &[u8], prefix: &[u8], after: &[u8]) -> Result<ScanPage, String> {
    let (more, mut rest) = match payload.split_first() {
        Some((0, rest)) => (false, rest),
        Some((1, rest)) => (true, rest),
        _ => return Err("a SCAN page that does not say whether there is more".to_owned()),
    };
    let mut pairs: Vec<Pair> = Vec::new();
    while !rest.is_empty() {
        let (pair, tail) = split_pair(rest).ok_or_else(|| format!("a SCAN page cut off in pair {}", pairs.len()))?;
        let before = pairs.last().map_or(after, |pair| pair.key.as_slice());
        if !pair.key.starts_with(prefix) || pair.key.as_slice() <= before {
            return Err(format!("a SCAN page with pair {} out of order or without the prefix", pairs.len()));
        }
        pairs.push(pair);
        rest = tail;
    }
    if more && pairs.is_empty() {
        return Err("a SCAN page that promises more and holds nothing".to_owned());
    }
    Ok(ScanPage { pairs, more })
}

fn split_pair(bytes: &[u8]) -> Option<(Pair, &[u8])> {
    let (key_length, rest) = bytes.split_first_chunk()?;
    let (value_length, rest) = rest.split_first_chunk()?;
    let (version, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*key_length) as usize)?;
    let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*value_length) as usize)?;
    Some((Pair { key: key.to_vec(), version: u64::from_le_bytes(*version), value: value.to_vec() }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(more: u8, pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut bytes = vec![more];
        for (key, value) in pairs {
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&7u64.to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        bytes
    }

    #[test]
    fn a_page_is_read_pair_by_pair() {
        let read = decode_page(&page(1, &[(b"a1", b"x"), (b"a2", b"")]), b"a", b"a0").expect("a good page");
        assert!(read.more);
        assert_eq!(read.pairs[0], Pair { key: b"a1".to_vec(), version: 7, value: b"x".to_vec() });
        assert_eq!(read.pairs[1], Pair { key: b"a2".to_vec(), version: 7, value: Vec::new() });
        assert_eq!(decode_page(&[0], b"", b""), Ok(ScanPage::default()));
    }

    #[test]
    fn a_page_that_would_mislead_is_refused() {
        let cut_anywhere = page(0, &[(b"key", b"value")]);
        for length in 2..cut_anywhere.len() {
            assert!(decode_page(&cut_anywhere[..length], b"", b"").is_err(), "cut to {length} bytes");
        }
        assert!(decode_page(&[], b"", b"").is_err(), "empty");
        assert!(decode_page(&[2], b"", b"").is_err(), "neither more nor not");
        assert!(decode_page(&[1], b"", b"").is_err(), "more of nothing");
        assert!(decode_page(&page(0, &[(b"b", b"")]), b"a", b"").is_err(), "another prefix");
        assert!(decode_page(&page(0, &[(b"a", b"")]), b"a", b"a").is_err(), "the cursor again");
        assert!(decode_page(&page(0, &[(b"b", b""), (b"a", b"")]), b"", b"").is_err(), "out of order");
        let mut huge = vec![0];
        huge.extend_from_slice(&u32::MAX.to_le_bytes());
        huge.extend_from_slice(&u32::MAX.to_le_bytes());
        huge.extend_from_slice(&[0; 8]);
        assert!(decode_page(&huge, b"", b"").is_err(), "lengths beyond the page");
    }
}
