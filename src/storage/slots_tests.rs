//! Tests of the slot file.

use super::*;
use crate::storage::real::RealDisk;

#[test]
fn the_last_payload_written_is_read_back_from_a_real_disk() {
    let directory = tempfile::tempdir().expect("a scratch directory can be made");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(directory.path()).expect("opened"));
    for (name, capacity) in [("small", 100), ("large", 20_000)] {
        let mut slots = SlotFile::create(&disk, name, capacity, b"first").expect("created");
        assert_eq!(slots.capacity(), capacity);
        for round in 0..5_usize {
            slots.write(&vec![round as u8; capacity - round]).expect("written");
            let (again, payload) = SlotFile::open(&disk, name).expect("opened");
            assert_eq!(payload, vec![round as u8; capacity - round]);
            slots = again;
        }
        let error = slots.write(&vec![0; capacity + 1]).expect_err("too long").to_string();
        assert!(error.contains(&format!("{} bytes exceed its capacity of {capacity}", capacity + 1)), "{error}");
        slots.write(b"").expect("an oversized payload changes nothing");
    }
}
