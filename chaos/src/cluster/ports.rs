//! Ports of this machine: which are taken, and which a scratch cluster can have. Asks by binding, and lets go at once.

use super::members::Member;
use crate::arguments::{ADMIN_PORT_OFFSET, CLIENT_PORT_OFFSET};
use crate::error::Error;
use rand::RngExt;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};

/// Peer ports of scratch clusters. With the offsets of the other two they stay below the ports that systems give to outgoing connections.
const SCRATCH_PORTS: std::ops::Range<u16> = 20_000..28_000;
const TRIES_MAX: u32 = 1_000;

/// Why nobody can listen on a port of `host`; `None` if it can be had on every address of the host.
fn obstacle(host: &str, port: u16) -> Result<Option<io::Error>, Error> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (bare, port).to_socket_addrs().map_err(|error| Error::local(format!("resolve {host}"), error))?;
    for address in addresses {
        match TcpListener::bind(address) {
            Ok(_) => {}
            // A family that this machine does not have is no obstacle: the server does without it, too.
            Err(error) if matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported) => {}
            Err(error) => return Ok(Some(error)),
        }
    }
    Ok(None)
}

/// Refuses a cluster of which a port cannot be had, naming the first one and what to do. `remedy` is how to choose other ports.
pub(crate) fn check_free(members: &[Member], remedy: &str) -> Result<(), Error> {
    for member in members {
        for (port, purpose) in member.ports() {
            let Some(error) = obstacle(&member.host, port)? else { continue };
            let whose = format!("port {port}, the {purpose} port of node {}", member.id());
            return Err(Error::Usage(match error.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "{whose}, is in use: stop the program that listens there (`ss -ltnp 'sport = :{port}'` names it; \
                     maybe another cluster is still running), or {remedy}"
                ),
                _ => format!("{whose}, cannot be used: {error}; {remedy}"),
            }));
        }
    }
    Ok(())
}

/// Peer ports for a scratch cluster on 127.0.0.1 of which all derived ports are free, too. They are free now; somebody else may be faster.
pub(crate) fn find_free(count: usize) -> Result<Vec<u16>, Error> {
    let mut chance = rand::rng();
    let mut ports = Vec::new();
    // Held until all are found, so that no two nodes get the same one.
    let mut held = Vec::new();
    for _ in 0..TRIES_MAX {
        if ports.len() == count {
            break;
        }
        let port = chance.random_range(SCRATCH_PORTS);
        let all = [port, port + CLIENT_PORT_OFFSET, port + ADMIN_PORT_OFFSET];
        let bound: io::Result<Vec<TcpListener>> = all.iter().map(|port| TcpListener::bind(("127.0.0.1", *port))).collect();
        if let Ok(listeners) = bound {
            held.extend(listeners);
            ports.push(port);
        }
    }
    if ports.len() < count {
        let range = format!("{} to {}", SCRATCH_PORTS.start, SCRATCH_PORTS.end + ADMIN_PORT_OFFSET);
        return Err(Error::Usage(format!("there are not enough free ports from {range} on 127.0.0.1: stop programs that listen there")));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::super::members::members;
    use super::*;
    use std::path::Path;

    #[test]
    fn a_busy_port_of_any_kind_is_named_with_its_node() {
        let ports = find_free(2).expect("free ports");
        let members = members("localhost", &ports, Path::new("data"));
        assert!(check_free(&members, "choose others").is_ok());
        for (port, purpose) in members[1].ports() {
            let _busy = TcpListener::bind(("127.0.0.1", port)).expect("it was free");
            let text = check_free(&members, "choose others with --base-port").expect_err("it is taken").to_string();
            for expected in [&format!("port {port}, the {purpose} port"), &members[1].id(), "in use", "--base-port"] {
                assert!(text.contains(expected), "{expected} is missing in: {text}");
            }
        }
    }

    #[test]
    fn free_ports_do_not_collide_with_each_other() {
        let ports = find_free(9).expect("free ports");
        let mut all: Vec<u16> = ports.iter().flat_map(|port| [*port, port + CLIENT_PORT_OFFSET, port + ADMIN_PORT_OFFSET]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 27);
    }
}
