//! A link between two nodes that a test can cut and mend: a proxy that one node dials in place of the other.

use parking_lot::Mutex;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// One direction of one pair of nodes. Ends when it is dropped.
pub(crate) struct Proxy {
    /// Where to dial.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cut: AtomicBool,
    ended: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// Starts to carry connections to `target`.
    pub(crate) fn start(target: String) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on this machine");
        let address = listener.local_addr().expect("a bound listener has an address").to_string();
        let shared = Arc::new(Shared::default());
        let accepting = shared.clone();
        thread::spawn(move || {
            for near in listener.incoming() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let (Ok(near), false) = (near, accepting.cut.load(Ordering::SeqCst))
                    && let Ok(far) = TcpStream::connect(&target)
                {
                    accepting.carry(&near, &far).expect("the process has descriptors left");
                }
            }
        });
        Proxy { address, shared }
    }

    /// Breaks all connections and takes no new ones, or takes them again.
    pub(crate) fn set_cut(&self, cut: bool) {
        self.shared.cut.store(cut, Ordering::SeqCst);
        if cut {
            self.shared.break_all();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.break_all();
        // Wakes the thread that accepts; if it cannot be reached, it is gone already.
        let _ = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn carry(&self, near: &TcpStream, far: &TcpStream) -> std::io::Result<()> {
        for stream in [near, far] {
            stream.set_nodelay(true)?;
        }
        for (from, to) in [(near, far), (far, near)] {
            self.streams.lock().push(from.try_clone()?);
            let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
            thread::spawn(move || {
                // However it ends, by either side or by the test, both sides learn of it.
                let _ = std::io::copy(&mut from, &mut to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        if self.cut.load(Ordering::SeqCst) {
            self.break_all();
        }
        Ok(())
    }

    fn break_all(&self) {
        for stream in self.streams.lock().drain(..) {
            // It may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
