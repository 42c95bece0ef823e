//! A node for the tests of applications: it speaks the plain frames of the protocol and keeps everything in memory, in the process of
//! the test. It shows what a client sees of a healthy cluster of one, and none of what ApexKV is for: nothing is replicated, nothing is
//! durable, nothing fails. Never use it for data.

use crate::protocol::{Command, DEFAULT_MAX_KEY, DEFAULT_MAX_VALUE, MAX_PING, PROTOCOL_VERSION, RequestHeader, SCAN_DEFAULT_LIMIT};
use crate::protocol::{SCAN_KEYS_ONLY, SCAN_MAX_LIMIT, SCAN_PAGE_BYTES, Status, encode_response};
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A listener on a free port of this machine, with a map behind it. Stops listening when it is dropped.
///
/// ```
/// use apexkv_client::{Client, testing::MemoryNode};
///
/// let node = MemoryNode::start()?;
/// let mut client = Client::builder().endpoints([node.endpoint()]).build()?;
/// let version = client.set(b"greeting", b"hello")?;
/// assert_eq!(client.get_versioned(b"greeting")?, Some((version, b"hello".to_vec())));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MemoryNode {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Map {
    last_version: u64,
    values: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
}

impl MemoryNode {
    /// Starts to listen. Fails only when the system gives no port.
    pub fn start() -> io::Result<MemoryNode> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, map) = (stopped.clone(), Arc::new(Mutex::new(Map::default())));
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let map = map.clone();
                // A connection that breaks concerns nobody but its client, who sees it.
                thread::spawn(move || converse(socket, address, &map));
            }
        });
        Ok(MemoryNode { address, stopped })
    }

    /// Where it listens, as `host:port`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for MemoryNode {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener, so that it sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn converse(mut socket: TcpStream, address: SocketAddr, map: &Mutex<Map>) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut input = BufReader::new(socket.try_clone()?);
    loop {
        let mut head = [0; 9];
        input.read_exact(&mut head)?;
        let mut response = Vec::new();
        let Some(header) = RequestHeader::parse(&head).filter(fits) else {
            encode_response(&mut response, Status::BadRequest, &[b"a plain frame within the limits is expected"], None);
            return socket.write_all(&response);
        };
        let mut body = vec![0; header.key_length as usize + header.value_length as usize];
        input.read_exact(&mut body)?;
        let (key, value) = body.split_at(header.key_length as usize);
        let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
        let (status, payload) = match Command::from_byte(header.command) {
            Some(command) => map.answer(command, key, value, address),
            None => (Status::BadRequest, b"no such command".to_vec()),
        };
        drop(map);
        encode_response(&mut response, status, &[&payload], None);
        socket.write_all(&response)?;
    }
}

fn fits(header: &RequestHeader) -> bool {
    header.key_length <= DEFAULT_MAX_KEY && header.value_length <= DEFAULT_MAX_VALUE + 8
}

impl Map {
    fn answer(&mut self, command: Command, key: &[u8], value: &[u8], address: SocketAddr) -> (Status, Vec<u8>) {
        let keyed = !matches!(command, Command::Ping | Command::Status | Command::Scan | Command::Backup);
        if keyed == key.is_empty() && command != Command::Scan {
            return (Status::BadRequest, b"a key is missing, or too much".to_vec());
        }
        let bare = matches!(command, Command::Get | Command::Getv | Command::Del | Command::Status);
        if bare && !value.is_empty() || command == Command::Set && value.len() > DEFAULT_MAX_VALUE as usize {
            return (Status::BadRequest, b"a value where none belongs, or one that is too long".to_vec());
        }
        match command {
            Command::Backup => (Status::Error, b"a node in memory makes no backups".to_vec()),
            Command::Set => self.store(key, value),
            Command::Get => self.values.get(key).map_or((Status::NotFound, vec![]), |(_, value)| (Status::Ok, value.clone())),
            Command::Getv => self
                .values
                .get(key)
                .map_or((Status::NotFound, vec![]), |(version, value)| (Status::Ok, join(&[&version.to_le_bytes(), value]))),
            Command::Del if self.values.remove(key).is_none() => (Status::NotFound, vec![]),
            Command::Del => (Status::Ok, self.next_version()),
            Command::Cas => match value.split_first_chunk() {
                Some((expected, value)) => self.exchange(key, u64::from_le_bytes(*expected), value),
                None => (Status::BadRequest, b"a CAS begins with a version of 8 bytes".to_vec()),
            },
            Command::Scan => self.page(key, value),
            Command::Ping if value.len() <= MAX_PING as usize => (Status::Ok, value.to_vec()),
            Command::Ping => (Status::BadRequest, b"a PING of more than 1024 bytes".to_vec()),
            Command::Status => (Status::Ok, self.status(address)),
        }
    }

    fn next_version(&mut self) -> Vec<u8> {
        self.last_version += 1;
        self.last_version.to_le_bytes().to_vec()
    }

    fn store(&mut self, key: &[u8], value: &[u8]) -> (Status, Vec<u8>) {
        let version = self.next_version();
        self.values.insert(key.to_vec(), (self.last_version, value.to_vec()));
        (Status::Ok, version)
    }

    fn exchange(&mut self, key: &[u8], expected: u64, value: &[u8]) -> (Status, Vec<u8>) {
        let current = self.values.get(key).map_or(0, |(version, _)| *version);
        if current == expected { self.store(key, value) } else { (Status::Conflict, current.to_le_bytes().to_vec()) }
    }

    fn page(&self, prefix: &[u8], options: &[u8]) -> (Status, Vec<u8>) {
        let Some((limit, [flags, cursor @ ..])) = options.split_first_chunk() else {
            return (Status::BadRequest, b"a SCAN has at least 5 bytes of value".to_vec());
        };
        if *flags & !SCAN_KEYS_ONLY != 0 || !(cursor.is_empty() || cursor.starts_with(prefix)) {
            return (Status::BadRequest, b"unknown flags, or a cursor without the prefix".to_vec());
        }
        let limit = match u32::from_le_bytes(*limit) {
            0 => SCAN_DEFAULT_LIMIT,
            limit => limit.min(SCAN_MAX_LIMIT),
        };
        let from = if cursor.is_empty() { Included(prefix) } else { Excluded(cursor) };
        let mut pairs = self.values.range::<[u8], _>((from, Unbounded)).take_while(|(key, _)| key.starts_with(prefix));
        let mut page = vec![0];
        for (key, (version, value)) in pairs.by_ref().take(limit as usize) {
            let value: &[u8] = if *flags & SCAN_KEYS_ONLY == 0 { value } else { &[] };
            let lengths = [(key.len() as u32).to_le_bytes(), (value.len() as u32).to_le_bytes()];
            page.extend(join(&[&lengths.concat(), &version.to_le_bytes(), key, value]));
            if page.len() >= SCAN_PAGE_BYTES {
                break;
            }
        }
        page[0] = u8::from(pairs.next().is_some());
        (Status::Ok, page)
    }

    fn status(&self, address: SocketAddr) -> Vec<u8> {
        let (index, keys) = (self.last_version, self.values.len());
        let bytes: usize = self.values.values().map(|(_, value)| value.len()).sum();
        let version = env!("CARGO_PKG_VERSION");
        let whole = [
            format!(r#""id":"{address}","role":"leader","term":1,"leader":"{address}","commit_index":{index},"applied_index":{index}"#),
            format!(r#""last_index":{index},"durable_index":0,"keys":{keys},"disk_bytes":{bytes},"uptime_ms":0"#),
            format!(r#""version":"{version}","protocol":{PROTOCOL_VERSION},"cluster_id":"in memory","peers":[]"#),
        ];
        format!("{{{}}}", whole.join(",")).into_bytes()
    }
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}
