//! The store as connections read it: damage that a read meets is told to those who see to it. Never answers anything itself.

use std::sync::Arc;

use super::shared::OnDamage;
use crate::error::Result;
use crate::storage::store::{Checked, Located, Page, Store};

/// Where values are read, and who hears of those that cannot be.
#[derive(Clone)]
pub struct Values {
    /// The applied state.
    pub store: Arc<Store>,
    /// Told of every value that is not what was written.
    pub on_damage: OnDamage,
}

impl Values {
    /// See [`Store::lookup`].
    pub(super) fn lookup(&self, key: &[u8]) -> Option<Located> {
        self.store.lookup(key)
    }

    /// See [`Store::scan`].
    pub(super) fn scan(&self, prefix: &[u8], cursor: &[u8], limit: usize, max_bytes: usize, keys_only: bool) -> Page {
        self.store.scan(prefix, cursor, limit, max_bytes, keys_only)
    }

    /// See [`Store::read`].
    pub(super) fn read(&self, key: &[u8], located: &Located, out: &mut Vec<u8>) -> Result<()> {
        self.store.read(key, located, out).inspect_err(|error| (self.on_damage)(error))
    }

    /// See [`Store::check`].
    pub(super) fn check(&self, key: &[u8], located: &Located) -> Result<Checked> {
        self.store.check(key, located).inspect_err(|error| (self.on_damage)(error))
    }
}
