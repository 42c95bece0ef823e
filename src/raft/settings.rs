//! Timeouts and windows of the core: plain numbers, given by the host, which checks that they fit each other.

/// Timeouts and windows. A tick is whatever the host makes it; the server uses one millisecond.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Shortest election timeout; each one is drawn from this up to twice this.
    pub election_ticks: u32,
    /// A leader speaks at least this often.
    pub heartbeat_ticks: u32,
    /// Greatest jitter before a pre-vote that a broken link starts.
    pub suspicion_ticks: u32,
    /// Longest election timeout that doubling after failed elections leads to.
    pub election_ticks_max: u32,
    /// Appends that nobody verified for this long are sent again.
    pub resend_ticks: u32,
    /// How long a leader whose commit does not move goes on before it hands leadership over.
    pub stall_ticks: u32,
    /// How long a leader that stepped down because it could not work does not campaign.
    pub ban_ticks: u32,
    /// Most bytes of records in one append (one record may be larger).
    pub append_bytes: u64,
    /// Most bytes under way to one follower.
    pub window_bytes: u64,
}

#[cfg(test)]
impl Settings {
    /// About what the server takes.
    pub(crate) fn usual() -> Settings {
        Settings {
            election_ticks: 150,
            heartbeat_ticks: 50,
            suspicion_ticks: 5,
            election_ticks_max: 5_000,
            resend_ticks: 600,
            stall_ticks: 3_000,
            ban_ticks: 10_000,
            append_bytes: 1 << 20,
            window_bytes: 1 << 20,
        }
    }

    /// So few ticks that a test counts them.
    pub(crate) fn few_ticks() -> Settings {
        Settings {
            election_ticks: 10,
            heartbeat_ticks: 3,
            suspicion_ticks: 2,
            election_ticks_max: 40,
            resend_ticks: 20,
            stall_ticks: 50,
            ban_ticks: 50,
            append_bytes: 1 << 20,
            window_bytes: 1 << 20,
        }
    }
}
