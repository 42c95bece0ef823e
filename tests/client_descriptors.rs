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
    let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    assert!(taken.len() > 5, "only {} descriptors were free", taken.len());
    taken.truncate(taken.len() - 5);

    // A served connection takes two descriptors, one on either side; the third client takes the last one.
    let mut served: Vec<_> = (0..2).map(|_| TcpStream::connect(address).expect("a descriptor")).collect();
    assert!(served.iter().all(|socket| ping(socket, Duration::from_secs(20))));
    let waiting = TcpStream::connect(address).expect("a descriptor for the client's side");
    let before = processor_time();
    assert!(!ping(&waiting, Duration::from_millis(500)), "nobody can accept it");
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(250), "{used:?} of processor time while waiting 500 ms");
    served.clear();
    assert!(ping(&waiting, Duration::from_secs(20)), "accepted when a descriptor was free again");
}
