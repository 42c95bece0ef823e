//! A link between two nodes that a test can cut, mend and slow down: a proxy that one node dials in place of the other.

use crate::harness::Cluster;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// Most bytes that a connection carries in one go.
const CHUNK: u64 = 64 << 10;
/// A slow connection carries what is due in this time in one go.
const CHUNKS_PER_SECOND: u64 = 50;

/// Proxies by who dials whom.
pub(crate) type Links = BTreeMap<(usize, usize), Proxy>;

/// Leads all links of a cluster that has not been started through proxies.
pub(crate) fn between_all(cluster: &mut Cluster) -> Links {
    let ids: Vec<String> = cluster.nodes.iter().map(|node| node.id.clone()).collect();
    let mut links = Links::new();
    for (from, node) in cluster.nodes.iter_mut().enumerate() {
        for (to, id) in ids.iter().enumerate().filter(|(to, _)| *to != from) {
            let proxy = Proxy::start(id.clone());
            node.flags.extend(["--dial".to_owned(), format!("{id}={}", proxy.address)]);
            links.insert((from, to), proxy);
        }
    }
    links
}

/// One direction of one pair of nodes. Ends when it is dropped.
pub(crate) struct Proxy {
    /// Where to dial.
    pub(crate) address: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    cut: AtomicBool,
    /// Bytes a second that each connection carries in either direction; 0 is as many as it can.
    rate: AtomicU64,
    carried: AtomicU64,
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

    /// How many bytes it has carried, in both directions.
    pub(crate) fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::SeqCst)
    }

    /// Limits each connection to so many bytes a second in either direction.
    pub(crate) fn set_rate(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::SeqCst);
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
    fn carry(self: &Arc<Self>, near: &TcpStream, far: &TcpStream) -> std::io::Result<()> {
        for stream in [near, far] {
            stream.set_nodelay(true)?;
        }
        for (from, to) in [(near, far), (far, near)] {
            self.streams.lock().push(from.try_clone()?);
            let (shared, mut from, mut to) = (self.clone(), from.try_clone()?, to.try_clone()?);
            thread::spawn(move || {
                // However it ends, by either side or by the test, both sides learn of it.
                let _ = shared.copy(&mut from, &mut to);
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
            });
        }
        if self.cut.load(Ordering::SeqCst) {
            self.break_all();
        }
        Ok(())
    }

    fn copy(&self, from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK as usize];
        loop {
            let rate = self.rate.load(Ordering::SeqCst);
            let chunk = if rate > 0 { (rate / CHUNKS_PER_SECOND).clamp(1, CHUNK) } else { CHUNK };
            let count = from.read(&mut buffer[..chunk as usize])?;
            if count == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..count])?;
            self.carried.fetch_add(count as u64, Ordering::SeqCst);
            if let Some(time) = (count as u64 * 1_000_000).checked_div(rate) {
                thread::sleep(Duration::from_micros(time));
            }
        }
    }

    fn break_all(&self) {
        for stream in self.streams.lock().drain(..) {
            // It may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
