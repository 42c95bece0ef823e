//! A node that does what a script says: a listener whose connections read whole requests and answer with the bytes, the silence or
//! the end of the connection that the script chooses. Shared by the tests of the library and of the command line.

#![allow(dead_code)] // Each test binary uses its part.

use apexkv_client::protocol::{RequestHeader, Status, encode_response};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What the node does once it has read a request.
pub(crate) enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Closes without a word.
    Close,
    /// Sends these bytes, then closes.
    SendAndClose(Vec<u8>),
    /// Sends these bytes, then discards what comes, as a node does that will close.
    SendAndDiscard(Vec<u8>),
    /// Keeps the connection open and says nothing more on it.
    Silence,
}

type Script = Arc<Mutex<dyn FnMut(&[u8], usize) -> Act + Send>>;

/// A listener with a script; stops with its value.
pub(crate) struct Node {
    /// Where it listens.
    pub(crate) endpoint: String,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    stopped: Arc<AtomicBool>,
}

impl Node {
    /// `script` sees each request and how many came before it, on whatever connection.
    pub(crate) fn start(script: impl FnMut(&[u8], usize) -> Act + Send + 'static) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on this machine");
        let endpoint = listener.local_addr().expect("a bound listener has an address").to_string();
        let frames = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let script: Script = Arc::new(Mutex::new(script));
        let (seen, stop) = (frames.clone(), stopped.clone());
        thread::spawn(move || {
            for socket in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (script, seen) = (script.clone(), seen.clone());
                thread::spawn(move || socket.map(|socket| converse(socket, &script, &seen)));
            }
        });
        Node { endpoint, frames, stopped }
    }

    /// A node that answers every request alike.
    pub(crate) fn always(response: Vec<u8>) -> Node {
        Node::start(move |_, _| Act::Send(response.clone()))
    }

    /// The requests received so far, whole frames.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().expect("no test thread panics with the lock").clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.endpoint);
    }
}

fn converse(mut socket: TcpStream, script: &Script, seen: &Mutex<Vec<Vec<u8>>>) {
    while let Some(frame) = read_frame(&mut socket) {
        let before = {
            let mut frames = seen.lock().expect("no test thread panics with the lock");
            frames.push(frame.clone());
            frames.len() - 1
        };
        let act = (script.lock().expect("no script panics"))(&frame, before);
        match act {
            Act::Send(bytes) => {
                if socket.write_all(&bytes).is_err() {
                    return;
                }
            }
            Act::Close => return,
            Act::SendAndClose(bytes) => {
                let _ = socket.write_all(&bytes).and_then(|()| socket.shutdown(Shutdown::Write));
                return;
            }
            Act::SendAndDiscard(bytes) => {
                let _ = socket.write_all(&bytes);
                let _ = std::io::copy(&mut socket, &mut std::io::sink());
                return;
            }
            Act::Silence => {
                // Until the other side has had enough.
                let _ = socket.read(&mut [0; 64]);
                return;
            }
        }
    }
}

fn read_frame(socket: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 9];
    socket.read_exact(&mut frame).ok()?;
    let size = RequestHeader::parse(&frame).expect("nine bytes are a plain header").frame_bytes();
    frame.resize(size, 0);
    socket.read_exact(&mut frame[9..]).ok()?;
    Some(frame)
}

/// A plain response.
pub(crate) fn response(status: Status, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_response(&mut bytes, status, &[payload], None);
    bytes
}

/// `OK` with a version.
pub(crate) fn version(number: u64) -> Vec<u8> {
    response(Status::Ok, &number.to_le_bytes())
}

/// An address at which nobody listens: one that was free a moment ago.
pub(crate) fn dead_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on this machine");
    listener.local_addr().expect("a bound listener has an address").to_string()
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting after 10 s: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
