//! The network between the nodes of a scratch cluster: a proxy for each way of dialing, which carries connections and can hold up, slow
//! down or break what goes one way. Knows bytes, not messages.
//!
//! Bytes that are held up are not lost: they arrive when the fault is over, however late, as do the ends of connections. That is what a
//! network does that loses packets for a while, and harder on the nodes than a clean cut.

use crate::error::Error;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// What is carried at once.
const PIECE_BYTES: usize = 16 << 10;
/// Time for a connection on to the node itself, which is on this machine.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// From whom to whom, by position.
pub(crate) type Way = (usize, usize);

/// What happens to the bytes that go one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// They wait, with the ends of connections, until the way is open again; as if each of them had been lost and sent once more.
    Held,
    /// Each piece waits for so long.
    Slow(Duration),
    /// A connection of this age breaks in the middle of the next piece.
    Breaking(Duration),
}

/// The network. Dropping it breaks all connections.
pub(crate) struct Network {
    air: Arc<Air>,
    /// Where to dial, by who dials whom.
    addresses: BTreeMap<Way, SocketAddr>,
}

/// What all connections share.
#[derive(Default)]
struct Air {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Ways that are not open.
    flows: BTreeMap<Way, Flow>,
    ended: bool,
    /// Open connections by number: who dialed whom, and both sockets.
    connections: BTreeMap<u64, (Way, [Arc<TcpStream>; 2])>,
    next_connection: u64,
}

/// What may be done with a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Whole,
    /// Half of it, and then the connection is over.
    Half,
    /// The network has ended.
    None,
}

impl Network {
    /// Proxies for all ways among nodes with these peer addresses; all are open.
    pub(crate) fn start(peers: &[String]) -> Result<Network, Error> {
        let mut network = Network { air: Arc::default(), addresses: BTreeMap::new() };
        let failed = |error| Error::local("start a proxy between two nodes", error);
        for from in 0..peers.len() {
            for to in (0..peers.len()).filter(|to| *to != from) {
                let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
                network.addresses.insert((from, to), listener.local_addr().map_err(failed)?);
                let target = peers[to].parse().map_err(|error| failed(std::io::Error::other(error)))?;
                let air = Arc::clone(&network.air);
                let name = format!("proxy-{from}-{to}");
                thread::Builder::new().name(name).spawn(move || accept(&air, &listener, (from, to), target)).map_err(failed)?;
            }
        }
        Ok(network)
    }

    /// Where `from` has to dial to reach `to`.
    pub(crate) fn address(&self, from: usize, to: usize) -> SocketAddr {
        self.addresses[&(from, to)]
    }

    /// Changes the ways named, and opens all others.
    pub(crate) fn set(&self, flows: &[(Way, Flow)]) {
        self.air.state.lock().flows = flows.iter().copied().collect();
        self.air.changed.notify_all();
    }

    /// Breaks all connections that use one of these ways.
    pub(crate) fn break_off(&self, flows: &[(Way, Flow)]) {
        let uses = |(from, to): Way| flows.iter().any(|(way, _)| *way == (from, to) || *way == (to, from));
        let state = self.air.state.lock();
        let struck = state.connections.values().filter(|(way, _)| uses(*way));
        struck.flat_map(|(_, streams)| streams).for_each(break_off);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let connections = {
            let mut state = self.air.state.lock();
            state.ended = true;
            std::mem::take(&mut state.connections)
        };
        self.air.changed.notify_all();
        connections.values().flat_map(|(_, streams)| streams).for_each(break_off);
        for address in self.addresses.values() {
            // Wakes the thread that accepts; if it cannot be reached, it is gone already.
            let _ = TcpStream::connect_timeout(address, CONNECT_MAX);
        }
    }
}

/// Takes connections until the network ends.
fn accept(air: &Arc<Air>, listener: &TcpListener, way: Way, target: SocketAddr) {
    for near in listener.incoming() {
        if air.state.lock().ended {
            return;
        }
        let (Ok(near), air) = (near, Arc::clone(air)) else { continue };
        // Without a thread the connection closes: to the nodes one more broken connection.
        let _ = thread::Builder::new().name(format!("link-{}-{}", way.0, way.1)).spawn(move || air.carry(near, way, target));
    }
}

/// Both directions; it may be over already.
fn break_off(stream: &Arc<TcpStream>) {
    let _ = stream.shutdown(Shutdown::Both);
}

impl Air {
    /// Carries one connection to its end. To open one takes both ways.
    fn carry(self: &Arc<Self>, near: TcpStream, way: Way, target: SocketAddr) {
        let back = (way.1, way.0);
        let opened = Instant::now();
        if [way, back].into_iter().any(|way| self.pass(way, opened) == Passage::None) {
            return;
        }
        let Ok(far) = TcpStream::connect_timeout(&target, CONNECT_MAX) else { return };
        if near.set_nodelay(true).and_then(|()| far.set_nodelay(true)).is_err() {
            return;
        }
        let (near, far) = (Arc::new(near), Arc::new(far));
        let Some(number) = self.register(way, [&near, &far]) else { return };
        let opened = Instant::now();
        let pump = {
            let (air, near, far) = (Arc::clone(self), Arc::clone(&near), Arc::clone(&far));
            thread::Builder::new().name(format!("link-{}-{}-back", way.0, way.1)).spawn(move || air.pump(&far, &near, back, opened))
        };
        if let Ok(pump) = pump {
            self.pump(&near, &far, way, opened);
            pump.join().expect("a panic ends the process, so the other direction returns");
        }
        self.state.lock().connections.remove(&number);
    }

    fn register(&self, way: Way, streams: [&Arc<TcpStream>; 2]) -> Option<u64> {
        let mut state = self.state.lock();
        if state.ended {
            return None;
        }
        state.next_connection += 1;
        let number = state.next_connection;
        state.connections.insert(number, (way, streams.map(Arc::clone)));
        Some(number)
    }

    /// Carries one direction; its end is the connection's, and goes the same way as the bytes.
    fn pump(&self, from: &Arc<TcpStream>, to: &Arc<TcpStream>, way: Way, opened: Instant) {
        let mut piece = vec![0; PIECE_BYTES];
        while let Ok(count @ 1..) = from.as_ref().read(&mut piece) {
            let passage = self.pass(way, opened);
            let length = match passage {
                Passage::Whole => count,
                Passage::Half => count / 2,
                Passage::None => 0,
            };
            if to.as_ref().write_all(&piece[..length]).is_err() || passage != Passage::Whole {
                break;
            }
        }
        self.pass(way, opened);
        [from, to].into_iter().for_each(break_off);
    }

    /// Waits until something may go this way, on a connection that was opened at `opened`.
    fn pass(&self, way: Way, opened: Instant) -> Passage {
        let arrived = Instant::now();
        let mut state = self.state.lock();
        while !state.ended {
            match state.flows.get(&way) {
                None => return Passage::Whole,
                Some(Flow::Held) => self.changed.wait(&mut state),
                Some(Flow::Slow(delay)) if arrived.elapsed() >= *delay => return Passage::Whole,
                Some(Flow::Slow(delay)) => {
                    let until = arrived + *delay;
                    self.changed.wait_until(&mut state, until);
                }
                Some(Flow::Breaking(life)) => return if opened.elapsed() < *life { Passage::Whole } else { Passage::Half },
            }
        }
        Passage::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const MOMENT: Duration = Duration::from_millis(100);

    /// Two nodes, of which the second listens, and a connection from the first to it.
    fn connected() -> (Network, TcpStream, TcpStream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let peers = ["127.0.0.1:1".to_owned(), listener.local_addr().expect("bound").to_string()];
        let network = Network::start(&peers).expect("free ports");
        let (near, far) = connect(&network, &listener);
        (network, near, far, listener)
    }

    fn connect(network: &Network, listener: &TcpListener) -> (TcpStream, TcpStream) {
        let near = TcpStream::connect(network.address(0, 1)).expect("the proxy listens");
        let (far, _) = listener.accept().expect("it dials on");
        near.set_read_timeout(Some(PATIENCE)).expect("a socket");
        far.set_read_timeout(Some(PATIENCE)).expect("a socket");
        (near, far)
    }

    fn says(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
        from.write_all(text).expect("an open connection");
        hears(to, text);
    }

    fn hears(stream: &mut TcpStream, text: &[u8]) {
        let mut heard = vec![0; text.len()];
        stream.read_exact(&mut heard).expect("it arrives");
        assert_eq!(heard, text);
    }

    fn hears_nothing(stream: &mut TcpStream) {
        stream.set_read_timeout(Some(MOMENT)).expect("a socket");
        let heard = stream.read(&mut [0; 1]);
        assert!(heard.is_err(), "heard {heard:?}");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    }

    #[test]
    fn an_open_network_carries_both_ways_and_the_end() {
        let (_network, mut near, mut far, _listener) = connected();
        says(&mut near, &mut far, b"ping");
        says(&mut far, &mut near, b"pong");
        drop(near);
        assert_eq!(far.read(&mut [0; 1]).expect("an orderly end"), 0);
    }

    #[test]
    fn what_is_held_one_way_arrives_later_and_the_other_way_goes_on() {
        let (network, mut near, mut far, _listener) = connected();
        network.set(&[((0, 1), Flow::Held)]);
        near.write_all(b"late").expect("the proxy takes it");
        hears_nothing(&mut far);
        says(&mut far, &mut near, b"the other way");
        network.set(&[]);
        hears(&mut far, b"late");
    }

    #[test]
    fn no_connection_comes_about_while_either_way_is_held() {
        for way in [(0, 1), (1, 0)] {
            let (network, _near, _far, listener) = connected();
            network.set(&[(way, Flow::Held)]);
            let _waiting = TcpStream::connect(network.address(0, 1)).expect("the proxy listens");
            listener.set_nonblocking(true).expect("a socket");
            thread::sleep(MOMENT);
            assert!(listener.accept().is_err(), "{way:?}");
            listener.set_nonblocking(false).expect("a socket");
            network.set(&[]);
            listener.accept().expect("it dials on as soon as it may");
        }
    }

    #[test]
    fn a_slow_way_takes_its_time() {
        let (network, mut near, mut far, _listener) = connected();
        network.set(&[((0, 1), Flow::Slow(MOMENT))]);
        let started = Instant::now();
        says(&mut near, &mut far, b"slow");
        assert!(started.elapsed() >= MOMENT, "{:?}", started.elapsed());
    }

    #[test]
    fn a_breaking_way_ends_connections_in_the_middle_of_a_piece() {
        let (network, mut near, mut far, listener) = connected();
        network.set(&[((0, 1), Flow::Breaking(Duration::ZERO))]);
        near.write_all(b"half of this").expect("the proxy takes it");
        let mut heard = Vec::new();
        // Broken connections end with an error or without one.
        let _ = far.read_to_end(&mut heard);
        assert_eq!(heard, b"half o");
        network.set(&[]);
        let (mut near, mut far) = connect(&network, &listener);
        says(&mut near, &mut far, b"whole again");
    }

    #[test]
    fn a_link_that_is_broken_off_ends_at_once_on_both_sides_though_nothing_passes() {
        for way in [(0, 1), (1, 0)] {
            let (network, mut near, mut far, listener) = connected();
            let flows = [(way, Flow::Held)];
            network.set(&flows);
            network.break_off(&flows);
            assert_eq!(near.read(&mut [0; 1]).unwrap_or(0), 0, "{way:?}");
            assert_eq!(far.read(&mut [0; 1]).unwrap_or(0), 0, "{way:?}");
            network.set(&[]);
            let (mut near, mut far) = connect(&network, &listener);
            says(&mut near, &mut far, b"a new one");
        }
    }

    #[test]
    fn the_end_of_the_network_is_the_end_of_its_connections() {
        let (network, _near, mut far, _listener) = connected();
        network.set(&[((0, 1), Flow::Held), ((1, 0), Flow::Held)]);
        drop(network);
        let mut heard = Vec::new();
        let _ = far.read_to_end(&mut heard);
        assert_eq!(heard, b"");
    }
}
