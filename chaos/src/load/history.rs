//! What is known of one key, and whether an answer of the cluster agrees with it. Pure: no sockets, no clock.
//!
//! A key belongs to one writer, which sends one write at a time and never the same value twice. So a value names its write, and the
//! key's whole history comes down to the newest version that is certain (acknowledged, or seen by a read) and the writes whose outcome
//! is open. What must hold of every later answer:
//!
//! * A version never goes back: an acknowledgement carries a higher one than all that is certain, a read one at least as high.
//! * The certain version has the certain value, for ever.
//! * A higher version than the certain one can only be a write whose outcome was open. It is usually the newest of them; an older one may
//!   take effect late, after writes that were acknowledged in between, when its bytes waited in a paused leader. That is permitted, and
//!   counted, because the cluster had not promised anything about it.
//!
//! Everything else means that an acknowledged write was lost, or that a read was stale.

use std::fmt;

/// Names a write of the run, and with it the value that was written.
pub(crate) type WriteNumber = u64;

/// A value as it is stored.
pub(crate) fn value_of(number: WriteNumber) -> String {
    format!("data_{number}")
}

/// The write that a stored value names; `None` if no writer wrote it.
fn number_of(value: &[u8]) -> Option<WriteNumber> {
    let number = std::str::from_utf8(value).ok()?.strip_prefix("data_")?.parse().ok()?;
    // Only the spelling that is written: "data_007" was never sent.
    (value_of(number).as_bytes() == value).then_some(number)
}

/// A version together with the write that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Certain {
    version: u64,
    number: WriteNumber,
}

/// An answer that cannot be, given what was certain before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// A write was acknowledged with a version that is not above the one already certain.
    VersionNotGrown { acknowledged: u64, certain: u64 },
    /// The key is gone although a write is certain.
    Absent { certain: u64, value: String },
    /// A read shows an older version than the certain one: lost, or a stale read.
    VersionBack { read: u64, certain: u64, value: String },
    /// The version is the certain one, the value is not.
    OtherValue { version: u64, read: String, certain: String },
    /// A newer version holds a value that cannot have been written at that point.
    Impossible { version: u64, read: String, certain: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::VersionNotGrown { acknowledged, certain } => {
                write!(f, "a write was acknowledged with version {acknowledged}, after version {certain} was certain")
            }
            Violation::Absent { certain, value } => {
                write!(f, "LOST: the key is absent, but version {certain} ({value}) was acknowledged or read")
            }
            Violation::VersionBack { read, certain, value } => {
                write!(f, "LOST or stale: version {read} was read, after version {certain} ({value}) was certain")
            }
            Violation::OtherValue { version, read, certain } => {
                write!(f, "version {version} holds {read:?}, but {certain} was written as that")
            }
            Violation::Impossible { version, read, certain } => {
                write!(f, "version {version} holds {read:?}, which no open write could have made after version {certain}")
            }
        }
    }
}

/// The history of one key.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    certain: Option<Certain>,
    /// Writes whose outcome is open, oldest first.
    open: Vec<WriteNumber>,
    /// Open writes that were found to have taken effect after a later one.
    late: u64,
}

impl History {
    /// Whether any write of the key may have taken effect, so that it is worth reading back.
    pub(crate) fn is_touched(&self) -> bool {
        self.certain.is_some() || !self.open.is_empty()
    }

    /// Writes that took effect after a later one was acknowledged.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// A write was answered with OK and `version`.
    pub(crate) fn acknowledged(&mut self, number: WriteNumber, version: u64) -> Result<(), Violation> {
        if let Some(certain) = self.certain.filter(|certain| version <= certain.version) {
            return Err(Violation::VersionNotGrown { acknowledged: version, certain: certain.version });
        }
        self.certain = Some(Certain { version, number });
        Ok(())
    }

    /// The outcome of a write could not be learned.
    pub(crate) fn unknown(&mut self, number: WriteNumber) {
        self.open.push(number);
    }

    /// A linearizable read that began after all of the above returned this version and value.
    pub(crate) fn read(&mut self, found: Option<(u64, &[u8])>) -> Result<(), Violation> {
        let Some((version, value)) = found else {
            return match self.certain {
                None => Ok(()),
                Some(certain) => Err(Violation::Absent { certain: certain.version, value: value_of(certain.number) }),
            };
        };
        let read = || String::from_utf8_lossy(value).into_owned();
        let floor = self.certain.map_or(0, |certain| certain.version);
        if let Some(certain) = self.certain {
            if version < certain.version {
                return Err(Violation::VersionBack { read: version, certain: certain.version, value: value_of(certain.number) });
            }
            if version == certain.version {
                let expected = value_of(certain.number);
                let same = value == expected.as_bytes();
                return if same { Ok(()) } else { Err(Violation::OtherValue { version, read: read(), certain: expected }) };
            }
        }
        let position = number_of(value).and_then(|number| self.open.iter().position(|open| *open == number));
        let Some(position) = position else {
            return Err(Violation::Impossible { version, read: read(), certain: floor });
        };
        // Its outcome is open no more; showing up again under yet another version would be a second effect of one write.
        let number = self.open.remove(position);
        self.late += u64::from(self.certain.is_some_and(|certain| certain.number > number));
        self.certain = Some(Certain { version, number });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Write 1 acknowledged as version 10, write 2 as version 20.
    fn two_acknowledged() -> History {
        let mut history = History::default();
        assert_eq!(history.acknowledged(1, 10), Ok(()));
        assert_eq!(history.acknowledged(2, 20), Ok(()));
        history
    }

    #[test]
    fn the_last_acknowledged_write_read_back_is_good() {
        let mut history = two_acknowledged();
        assert_eq!(history.read(Some((20, b"data_2"))), Ok(()));
        assert_eq!(history.late(), 0);
    }

    #[test]
    fn a_lost_write_is_found() {
        assert_eq!(two_acknowledged().read(None), Err(Violation::Absent { certain: 20, value: "data_2".to_owned() }));
        let found = two_acknowledged().read(Some((10, b"data_1")));
        assert_eq!(found, Err(Violation::VersionBack { read: 10, certain: 20, value: "data_2".to_owned() }));
    }

    #[test]
    fn an_acknowledged_version_that_does_not_grow_is_found() {
        for version in [20, 19, 1] {
            let answer = two_acknowledged().acknowledged(3, version);
            assert_eq!(answer, Err(Violation::VersionNotGrown { acknowledged: version, certain: 20 }));
        }
    }

    #[test]
    fn a_stale_value_under_a_new_version_is_found() {
        let found = two_acknowledged().read(Some((30, b"data_1")));
        assert_eq!(found, Err(Violation::Impossible { version: 30, read: "data_1".to_owned(), certain: 20 }));
    }

    #[test]
    fn another_value_under_the_acknowledged_version_is_found() {
        let mut history = two_acknowledged();
        history.unknown(3);
        let found = history.read(Some((20, b"data_3")));
        assert_eq!(found, Err(Violation::OtherValue { version: 20, read: "data_3".to_owned(), certain: "data_2".to_owned() }));
    }

    #[test]
    fn a_value_that_nobody_sent_is_found() {
        for value in [&b"data_9"[..], b"data_02", b"", b"\xff", b"data_-1", b"data_99999999999999999999"] {
            let mut history = two_acknowledged();
            history.unknown(3);
            assert!(matches!(history.read(Some((30, value))), Err(Violation::Impossible { .. })), "{value:?}");
        }
    }

    #[test]
    fn an_unknown_write_may_have_taken_effect_or_not() {
        let mut history = two_acknowledged();
        history.unknown(3);
        assert_eq!(history.clone().read(Some((20, b"data_2"))), Ok(()), "it did not");
        assert_eq!(history.read(Some((21, b"data_3"))), Ok(()), "it did");
        assert_eq!(history.late(), 0);
    }

    #[test]
    fn an_unknown_write_that_was_seen_counts_like_an_acknowledged_one() {
        let mut history = two_acknowledged();
        history.unknown(3);
        assert_eq!(history.read(Some((21, b"data_3"))), Ok(()));
        assert!(matches!(history.clone().read(Some((20, b"data_2"))), Err(Violation::VersionBack { .. })), "a later read goes back");
        assert!(matches!(history.clone().read(Some((22, b"data_3"))), Err(Violation::Impossible { .. })), "one write, two effects");
        assert!(history.clone().acknowledged(4, 21).is_err());
        assert!(history.acknowledged(4, 22).is_ok());
    }

    #[test]
    fn an_unknown_write_that_took_effect_late_is_permitted_and_counted() {
        let mut history = History::default();
        history.unknown(1);
        assert_eq!(history.acknowledged(2, 20), Ok(()));
        assert_eq!(history.read(Some((30, b"data_1"))), Ok(()));
        assert_eq!(history.late(), 1);
        let mut older = History::default();
        older.unknown(1);
        assert_eq!(older.acknowledged(2, 20), Ok(()));
        assert!(older.read(Some((10, b"data_1"))).is_err(), "it came before the acknowledged one, so it cannot be what stands");
    }

    #[test]
    fn a_key_that_was_never_acknowledged_may_be_absent() {
        let mut history = History::default();
        assert!(!history.is_touched());
        assert_eq!(history.read(None), Ok(()));
        history.unknown(1);
        assert!(history.is_touched());
        assert_eq!(history.read(None), Ok(()));
        assert_eq!(history.read(Some((5, b"data_1"))), Ok(()));
        assert!(history.read(None).is_err(), "it was there");
    }
}
