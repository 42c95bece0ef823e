//! Names of nodes as users and servers write them (`host:port`), and the way from a name to a connected socket. Never remembers an
//! address: names are resolved at each connect, because a node that comes back may come back elsewhere.

use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Longest endpoint that is taken: a DNS name has at most 253 bytes, and a port 5.
const MAX_ENDPOINT: usize = 260;

/// Checks that `endpoint` reads `host:port` (an IPv6 address in brackets: `[::1]:9001`), without resolving it. The error is a sentence
/// for a person that names the remedy.
pub fn check_endpoint(endpoint: &str) -> Result<(), String> {
    split(endpoint).map(|_| ())
}

/// Host without brackets, and port.
fn split(endpoint: &str) -> Result<(&str, u16), String> {
    let refuse = |reason: &str| Err(format!("endpoint {endpoint:?} {reason}; write it as host:port, for example localhost:9001"));
    if endpoint.len() > MAX_ENDPOINT {
        return Err(format!("an endpoint has {} bytes, at most {MAX_ENDPOINT} are possible; write it as host:port", endpoint.len()));
    }
    let Some((host, port)) = endpoint.rsplit_once(':') else {
        return refuse("has no port");
    };
    let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let host = bracketed.unwrap_or(host);
    if host.is_empty() {
        return refuse("has no host");
    }
    if host.contains(|letter: char| letter.is_whitespace() || letter.is_control() || "/@,[]".contains(letter)) {
        return refuse("has a host with a character that no host name has");
    }
    if bracketed.is_none() && host.contains(':') {
        return refuse("has an IPv6 address without brackets ([::1]:9001)");
    }
    let digits_only = port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if digits_only && port != 0 => Ok((host, port)),
        _ => refuse("has a port that is not a number from 1 to 65535"),
    }
}

/// Connects to the first address of `endpoint` that takes the connection: each gets `per_address`, all together end at `deadline`.
/// Resolving is the operating system's and obeys its own time limits.
pub(crate) fn connect(endpoint: &str, per_address: Duration, deadline: Instant) -> io::Result<TcpStream> {
    let (host, port) = split(endpoint).map_err(|reason| io::Error::new(io::ErrorKind::InvalidInput, reason))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address");
    for address in (host, port).to_socket_addrs()? {
        let left = deadline.saturating_duration_since(Instant::now()).min(per_address);
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the time limit passed before a connection stood"));
        }
        match connect_address(address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn connect_address(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    // A connect to a free local port in the range of outgoing ports can meet itself; whoever answers there is nobody but us.
    if stream.local_addr()? == address {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens there"));
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_addresses_and_brackets_are_taken() {
        for good in ["localhost:9001", "10.0.0.1:1", "[::1]:65535", "node-1.example.org:9001"] {
            assert_eq!(check_endpoint(good), Ok(()), "{good}");
        }
        assert_eq!(split("[fe80::1]:9001"), Ok(("fe80::1", 9001)));
    }

    #[test]
    fn what_cannot_be_connected_to_is_refused_with_the_remedy() {
        for bad in
            ["", "localhost", ":9001", "localhost:", "localhost:0", "localhost:65536", "localhost:+1", "::1:9001", "a b:1", "http://a:1"]
        {
            let reason = check_endpoint(bad).expect_err(bad);
            assert!(reason.contains("host:port"), "{bad}: {reason}");
        }
        assert!(check_endpoint(&format!("{}:1", "a".repeat(300))).is_err());
    }
}
