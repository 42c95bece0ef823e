//! What one writer sent to its keys and what came of it, and the verdict at the end: nothing acknowledged may be missing.

use apexkv_client::{Client, Error};
use std::collections::BTreeMap;

/// One write of a key, in the order of sending.
#[derive(Debug)]
struct Attempt {
    value: Vec<u8>,
    /// Its version if it was acknowledged; otherwise its outcome is open.
    version: Option<u64>,
}

/// The writes of one writer. No two ledgers share a key.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    keys: BTreeMap<Vec<u8>, Vec<Attempt>>,
    /// How many writes were acknowledged.
    pub(crate) acknowledged: u64,
    /// How many writes have an open outcome.
    pub(crate) unknown: u64,
}

impl Ledger {
    /// Sends one SET and takes down its outcome; returns whether it was acknowledged. A write that had no effect leaves no trace.
    pub(crate) fn set(&mut self, client: &mut Client, key: &[u8], value: Vec<u8>) -> bool {
        let outcome = client.set(key, &value);
        match outcome {
            Ok(version) => {
                self.acknowledge(key, value, version);
                true
            }
            Err(Error::Unknown { .. }) => {
                self.keys.entry(key.to_vec()).or_default().push(Attempt { value, version: None });
                self.unknown += 1;
                false
            }
            Err(Error::Unavailable { .. }) => false,
            Err(error) => panic!("{}: a plain SET ended with {error}", key.escape_ascii()),
        }
    }

    /// Takes down a SET that was answered OK.
    pub(crate) fn acknowledge(&mut self, key: &[u8], value: Vec<u8>, version: u64) {
        let attempts = self.keys.entry(key.to_vec()).or_default();
        let before = attempts.iter().filter_map(|attempt| attempt.version).max().unwrap_or(0);
        assert!(version > before, "{}: version {version} was acknowledged after {before}", key.escape_ascii());
        attempts.push(Attempt { value, version: Some(version) });
        self.acknowledged += 1;
    }

    /// Reads every key back. The final value must be the last acknowledged one, at exactly its version, or one of an open outcome that
    /// was sent after it, at a later version.
    pub(crate) fn verify(&self, client: &mut Client) {
        for (key, attempts) in &self.keys {
            let name = key.escape_ascii();
            let found = client.get_versioned(key).unwrap_or_else(|error| panic!("{name} cannot be read back: {error}"));
            let last = attempts.iter().rposition(|attempt| attempt.version.is_some());
            let acknowledged = last.and_then(|at| attempts[at].version).unwrap_or(0);
            let Some((version, value)) = found else {
                assert!(last.is_none(), "{name} was acknowledged at version {acknowledged} and is gone");
                continue;
            };
            let candidates = &attempts[last.unwrap_or(0)..];
            let explained = candidates.iter().any(|attempt| {
                attempt.value == value && attempt.version.map_or(version > acknowledged, |acknowledged| acknowledged == version)
            });
            assert!(
                explained,
                "{name} holds '{}' at version {version}, which follows from none of the writes since the \
                 last acknowledged one: {candidates:?}",
                value.escape_ascii()
            );
        }
    }
}
