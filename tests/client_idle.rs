//! What idle client connections cost in memory. In a binary of its own, because memory is counted for the whole process.

use apexkv::raft::NodeId;
use apexkv::server::accept::listen;
use apexkv::server::clients::{ClientLimits, ClientPort, ClientPortConfig, NodeView};
use apexkv::server::metrics::Metrics;
use apexkv_client::protocol::{Command, encode_request};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct View;

impl NodeView for View {
    fn client_address(&self, _: NodeId) -> Option<String> {
        None
    }

    fn status_json(&self) -> String {
        "{}".to_owned()
    }
}

/// Resident memory of this process in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

#[test]
fn an_idle_connection_costs_less_than_32_kib() {
    let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let limits = ClientLimits { frame_time: Duration::from_millis(300), ..ClientLimits::default() };
    let config = ClientPortConfig { listeners: vec![listener], limits, metrics: Arc::new(Metrics::default()) };
    let _port = ClientPort::start(config, Arc::new(View)).expect("the port starts");
    let (mut ping, mut answer) = (Vec::new(), [0; 105]);
    encode_request(&mut ping, Command::Ping, b"", &[&[0; 100]]);
    let count = 300;
    let before = resident();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = TcpStream::connect(address).expect("connect");
        client.write_all(&ping).expect("send");
        client.read_exact(&mut answer).expect("an answer");
        clients.push(client);
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let each = resident().saturating_sub(before) / count;
        if each < 32 << 10 {
            break;
        }
        assert!(Instant::now() < deadline, "each of {count} idle connections holds {each} bytes");
        std::thread::sleep(Duration::from_millis(20));
    }
}
