//! The members of a local cluster: names, addresses, folders and command lines. Touches nothing but to look for the binary.

use crate::arguments::{ADMIN_PORT_OFFSET, CLIENT_PORT_OFFSET};
use crate::error::Error;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One node as it is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Host of all its addresses.
    pub(crate) host: String,
    /// Peer port; the other two follow from it.
    pub(crate) port: u16,
    /// The folder of its files.
    pub(crate) data_dir: PathBuf,
    /// The ids of the others.
    pub(crate) peers: Vec<String>,
    /// Addresses under which it reaches others, by their ids; for those that are not named, the id is the address.
    pub(crate) dial: Vec<(String, SocketAddr)>,
}

impl Member {
    /// Name and peer address.
    pub(crate) fn id(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Where it serves clients.
    pub(crate) fn client(&self) -> String {
        format!("{}:{}", self.host, self.port + CLIENT_PORT_OFFSET)
    }

    /// Its ports, each with what it is for.
    pub(crate) fn ports(&self) -> [(u16, &'static str); 3] {
        [(self.port, "peer"), (self.port + CLIENT_PORT_OFFSET, "client"), (self.port + ADMIN_PORT_OFFSET, "admin")]
    }

    /// The server's arguments.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["--id".into(), self.id().into()];
        if !self.peers.is_empty() {
            arguments.extend(["--peers".into(), self.peers.join(",").into()]);
        }
        arguments.extend(["--data-dir".into(), self.data_dir.clone().into()]);
        arguments.extend(self.dial.iter().flat_map(|(id, address)| ["--dial".into(), format!("{id}={address}").into()]));
        arguments
    }

    /// The command that starts it by hand.
    pub(crate) fn command_line(&self, server: &Path) -> String {
        let arguments = self.arguments();
        let words = std::iter::once(server.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }
}

/// The members with these peer ports, their folders under `data_dir`.
pub(crate) fn members(host: &str, ports: &[u16], data_dir: &Path) -> Vec<Member> {
    let id = |port: &u16| format!("{host}:{port}");
    let member = |port: &u16| Member {
        host: host.to_owned(),
        port: *port,
        data_dir: data_dir.join(format!("{host}-{port}")),
        peers: ports.iter().filter(|other| *other != port).map(id).collect(),
        dial: Vec::new(),
    };
    ports.iter().map(member).collect()
}

/// The server's binary: the one that was named, or `apexkv` beside this program.
pub(crate) fn server_binary(named: Option<&Path>) -> Result<PathBuf, Error> {
    let own = std::env::current_exe().map_err(|error| Error::local("find this program's own file", error))?;
    let path = named.map_or_else(|| own.with_file_name("apexkv"), Path::to_owned);
    // A node must not depend on the folder that this program happens to run in.
    let path = std::path::absolute(&path).map_err(|error| Error::local(format!("find {}", path.display()), error))?;
    match rustix::fs::access(&path, rustix::fs::Access::EXEC_OK) {
        Ok(()) if path.is_file() => Ok(path),
        _ => {
            let remedy = "build it with `make build`, or name it with --server";
            Err(Error::Usage(format!("there is no server binary at {}: {remedy}", path.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_name_each_other_but_not_themselves() {
        let members = members("localhost", &[8001, 8002, 8003], Path::new("data"));
        assert_eq!(members[1].id(), "localhost:8002");
        assert_eq!(members[1].client(), "localhost:9002");
        assert_eq!(members[1].ports().map(|(port, _)| port), [8002, 9002, 10002]);
        let line = members[1].command_line(Path::new("/bin/apexkv"));
        assert_eq!(line, "/bin/apexkv --id localhost:8002 --peers localhost:8001,localhost:8003 --data-dir data/localhost-8002");
    }

    #[test]
    fn other_ways_to_a_peer_are_on_the_command_line() {
        let mut members = members("localhost", &[8001, 8002], Path::new("data"));
        members[0].dial = vec![(members[1].id(), SocketAddr::from(([127, 0, 0, 1], 7)))];
        assert!(members[0].command_line(Path::new("apexkv")).ends_with(" --dial localhost:8002=127.0.0.1:7"));
    }

    #[test]
    fn a_cluster_of_one_has_no_peers_flag() {
        let members = members("localhost", &[8001], Path::new("data"));
        assert_eq!(members[0].arguments(), ["--id", "localhost:8001", "--data-dir", "data/localhost-8001"]);
    }

    #[test]
    fn a_missing_binary_is_named_with_the_remedy() {
        let error = server_binary(Some(Path::new("/nonexistent/apexkv"))).expect_err("it is not there");
        assert!(error.to_string().contains("/nonexistent/apexkv") && error.to_string().contains("make build"), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(server_binary(Some(Path::new("/tmp"))).is_err(), "a folder is no binary");
    }
}
