//! Admin HTTP: `GET /status` (the STATUS object) and `GET /health` (200 while a leader is known, 503 otherwise), for a browser, a
//! load balancer or a scraper. One request at a time with short time limits, one answer for each connection; it reads a request's first
//! line and nothing else, and never more than [`REQUEST_BYTES`].

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clients::NodeView;
use super::status::StatusView;

/// Longest request head that is read.
const REQUEST_BYTES: usize = 4096;
/// For a whole request; everyone else waits that long behind a client that trickles.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a failed accept (no descriptors left), before the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers until the process ends.
pub(super) fn run(listener: &TcpListener, status: &Arc<StatusView>) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => serve(&stream, status),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

fn serve(mut stream: &TcpStream, status: &Arc<StatusView>) {
    let Some(path) = read_path(stream) else { return };
    let (code, kind, body) = match path.as_deref() {
        Some("/status") => ("200 OK", "application/json", status.status_json()),
        Some("/health") if status.knows_leader() => ("200 OK", "text/plain", "ok\n".to_owned()),
        Some("/health") => ("503 Service Unavailable", "text/plain", "no leader is known\n".to_owned()),
        Some(_) => ("404 Not Found", "text/plain", "there is /status and /health\n".to_owned()),
        None => ("400 Bad Request", "text/plain", "only GET is served\n".to_owned()),
    };
    let head = format!("HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // Whoever left before the answer does not miss it.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// The path of a GET; `Some(None)` for another request, `None` for one that did not arrive in time and size.
fn read_path(mut stream: &TcpStream) -> Option<Option<String>> {
    let deadline = Instant::now() + PATIENCE;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    let (mut head, mut filled) = ([0; REQUEST_BYTES], 0);
    while !head[..filled].windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        match stream.read(&mut head[filled..]) {
            Ok(0) | Err(_) => return None,
            Ok(more) => filled += more,
        }
    }
    let line = head[..filled].split(|byte| *byte == b'\r').next().and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.unwrap_or("").split(' ');
    Some((words.next() == Some("GET")).then(|| words.next().unwrap_or("/").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::super::replica::Position;
    use super::*;

    #[test]
    fn status_and_health_answer_and_everything_else_is_refused() {
        let status = Arc::new(StatusView::new("localhost:1", Arc::new(Metrics::default())));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let view = Arc::clone(&status);
        std::thread::spawn(move || run(&listener, &view));
        let ask = |request: &str| {
            let mut stream = TcpStream::connect(address).expect("it listens");
            stream.write_all(request.as_bytes()).expect("sent");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("answered");
            answer
        };
        assert!(ask("GET /health HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 503"));
        *status.position.lock() = Position { leader: Some(crate::raft::NodeId(1)), ..Position::default() };
        assert!(ask("GET /health HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200"));
        assert!(ask("GET /status HTTP/1.1\r\nHost: x\r\n\r\n").contains("\"id\":\"localhost:1\""));
        assert!(ask("GET /else HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
        assert!(ask("POST /status HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 400"));
    }
}
