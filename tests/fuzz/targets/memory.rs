//! How much memory some work needs at most. Counts for the whole process, so whoever measures must be alone.

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Runs `work` and panics if it had more than `limit` bytes allocated at any time, beyond what there was before.
pub(super) fn bounded<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let done = work();
    let used = ALLOCATOR.peak_usage().saturating_sub(before);
    assert!(used <= limit, "{used} bytes of memory were needed at a time, at most {limit} are in proportion");
    done
}
