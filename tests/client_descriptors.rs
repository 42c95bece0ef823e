//! The client port when the process has no file descriptor left. In a binary of its own, because the limit holds for the whole
//! process.

use apexkv::raft::NodeId;
use apexkv::server::accept::listen;
use apexkv::server::clients::{ClientLimits, ClientPort, ClientPortConfig, NodeView};
use apexkv::server::metrics::Metrics;
use apexkv_client::protocol::{Command, encode_request};
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

struct View;

impl NodeView for View {
    fn client_address(&self, _: NodeId) -> Option<String> {
        None
    }

    fn status_json(&self) -> String {
        "{}".to_owned()
    }
}

/// Sends a PING and waits for its answer; false if none comes within `patience`.
fn ping(mut socket: &TcpStream, patience: Duration) -> bool {
    let mut frame = Vec::new();
    encode_request(&mut frame, Command::Ping, b"", &[]);
    socket.set_read_timeout(Some(patience)).expect("an option");
    socket.write_all(&frame).expect("send");
    socket.read_exact(&mut [0; 5]).is_ok()
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn without_descriptors_nothing_spins_and_service_resumes_by_itself() {
    let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let address = listener.local_addr().expect("bound");
    let config = ClientPortConfig { listeners: vec![listener], limits: ClientLimits::default(), metrics: Arc::new(Metrics::default()) };
    let _port = ClientPort::start(config, Arc::new(View)).expect("the port starts");
    let highest = std::fs::read_dir("/proc/self/fd").expect("Linux").count() as u64;
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = Some(highest + 64);
    setrlimit(Resource::Nofile, limit).expect("lowering is allowed");
    let mut served: Vec<_> = (0..2).map(|_| TcpStream::connect(address).expect("a descriptor")).collect();
    assert!(served.iter().all(|socket| ping(socket, Duration::from_secs(20))));

    // The client takes the last descriptor, so that none is left for the server's side. Another thread of the test's own frame may give
    // one back in between; then the client is served and the next one tries.
    let mut taken = Vec::new();
    let waiting = loop {
        taken.extend(std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()));
        taken.pop();
        let socket = TcpStream::connect(address).expect("a descriptor for the client's side");
        if !ping(&socket, Duration::from_millis(300)) {
            break socket;
        }
        served.push(socket);
        assert!(served.len() < 10, "the limit on descriptors does not hold");
    };
    let before = processor_time();
    assert!(!ping(&waiting, Duration::from_millis(500)), "nobody can accept it");
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(250), "{used:?} of processor time while waiting 500 ms");
    served.clear();
    assert!(ping(&waiting, Duration::from_secs(20)), "accepted when a descriptor was free again");
}
