//! Every setting of a server, from the command line and the environment, checked once and before any file or socket is touched.
//! Knows nothing of sockets; addresses stay names until they are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::error::{Error, Result};
use crate::storage::record;

/// Clients connect to the peer port plus this.
pub const CLIENT_PORT_OFFSET: u16 = 1000;
/// The admin port is the peer port plus this.
pub const ADMIN_PORT_OFFSET: u16 = 2000;

/// A replicated, linearizable, fsync-durable key-value store.
#[derive(Parser, Debug, Clone)]
#[command(name = "apexkv", version, about, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct Flags {
    /// This node's name and peer address
    ///
    /// Other nodes connect here; clients connect to port + 1000. Names compare as text: use the same spelling on every node.
    #[arg(long, value_name = "HOST:PORT", env = "APEXKV_ID")]
    pub id: String,
    /// The other founding nodes; leave out for a cluster of one
    ///
    /// The same list serves every boot. All founding nodes must name the same members.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', env = "APEXKV_PEERS")]
    pub peers: Vec<String>,
    /// Log and state; created if missing, locked while running [default: data/HOST-PORT]
    #[arg(long, value_name = "DIR", env = "APEXKV_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Listen for peers here instead of on every address of the id's host
    #[arg(long, value_name = "ADDR:PORT", env = "APEXKV_LISTEN_PEER")]
    pub listen_peer: Option<String>,
    /// Listen for clients here instead of on the id's host, port + 1000
    #[arg(long, value_name = "ADDR:PORT", env = "APEXKV_LISTEN_CLIENT")]
    pub listen_client: Option<String>,
    /// Listen for admin HTTP here instead of on the id's host, port + 2000
    #[arg(long, value_name = "ADDR:PORT", env = "APEXKV_LISTEN_ADMIN")]
    pub listen_admin: Option<String>,
    /// The client address that other nodes hand out for this one [default: the id's host, port + 1000]
    #[arg(long, value_name = "HOST:PORT", env = "APEXKV_ADVERTISE_CLIENT")]
    pub advertise_client: Option<String>,
    /// Reach the peer ID under another address (proxy, NAT); may be repeated
    #[arg(long, value_name = "ID=HOST:PORT", value_delimiter = ',', env = "APEXKV_DIAL")]
    pub dial: Vec<String>,
    /// A leader speaks at least this often
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = parse_duration, env = "APEXKV_HEARTBEAT_INTERVAL")]
    pub heartbeat_interval: Duration,
    /// Shortest election timeout; each is drawn from this up to twice this
    ///
    /// Must be at least twice the heartbeat interval. Use more on networks with a round trip above some 20 ms.
    #[arg(long, value_name = "DURATION", default_value = "150ms", value_parser = parse_duration, env = "APEXKV_ELECTION_TIMEOUT")]
    pub election_timeout: Duration,
    /// A leader that cannot commit for this long hands leadership over
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration, env = "APEXKV_DISK_STALL_HANDOVER")]
    pub disk_stall_handover: Duration,
    /// How long a request may wait before it is answered BUSY (no effect) or UNKNOWN (outcome open)
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration, env = "APEXKV_REQUEST_TIMEOUT")]
    pub request_timeout: Duration,
    /// Size at which a log segment is sealed, 1MiB to 1GiB
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = parse_size, env = "APEXKV_SEGMENT_BYTES")]
    pub segment_bytes: u64,
    /// So much log is kept for nodes that were away; what is older leaves it and is merged
    ///
    /// A node that was away for longer gets the state as files instead.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = parse_size, env = "APEXKV_RETAIN_LOG_BYTES")]
    pub retain_log_bytes: u64,
    /// Disk space held back from the log for work that makes room; 0 for none [default: as --segment-bytes, at most 64MiB]
    ///
    /// Kept as a file in the data directory. Without it, or room for it, the log takes no further segment and writes are answered BUSY.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "APEXKV_RESERVE_BYTES")]
    pub reserve_bytes: Option<u64>,
    /// Longest key a client may use, up to 1MiB
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_size, env = "APEXKV_MAX_KEY_BYTES")]
    pub max_key_bytes: u64,
    /// Longest value a client may use, up to 64MiB
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_size, env = "APEXKV_MAX_VALUE_BYTES")]
    pub max_value_bytes: u64,
    /// Most memory for the index of keys; above it SET and CAS are answered BUSY [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "APEXKV_MAX_INDEX_BYTES")]
    pub max_index_bytes: Option<u64>,
    /// Most client connections at a time
    #[arg(long, value_name = "N", default_value_t = 10_000, env = "APEXKV_MAX_CONNECTIONS")]
    pub max_connections: usize,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "APEXKV_LOG_LEVEL")]
    pub log_level: log::LevelFilter,
}

const LONG_ABOUT: &str = "A replicated, linearizable, fsync-durable key-value store whose Raft log is the database.\n\n\
    Every flag can also be given as APEXKV_<FLAG> in the environment; the flag wins. Durations carry a unit (250ms, 5s), sizes \
    may (64MiB).";

const EXAMPLES: &str = "Three nodes on one machine, one per terminal:\n  \
    apexkv --id localhost:8001 --peers localhost:8002,localhost:8003\n  \
    apexkv --id localhost:8002 --peers localhost:8001,localhost:8003\n  \
    apexkv --id localhost:8003 --peers localhost:8001,localhost:8002\n\n\
    Tools for the data directory of a node that does not run (see apexkv check --help):\n  \
    apexkv check DIR                                read every byte and name all damage\n  \
    apexkv dump DIR [--keys|--log] [-o text|json]   print the keys, or the log entry by entry\n  \
    apexkv restore FILE --data-dir DIR --id ID ...  make a member of a new cluster of a backup";

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node's id, as given.
    pub id: String,
    /// All founding members, this node among them, sorted as text.
    pub members: Vec<String>,
    /// Where the files are.
    pub data_dir: PathBuf,
    /// `host:port` to listen on for peers.
    pub listen_peer: String,
    /// `host:port` to listen on for clients.
    pub listen_client: String,
    /// `host:port` to listen on for admin HTTP.
    pub listen_admin: String,
    /// The client address others hand out for this node.
    pub advertise_client: String,
    /// Other addresses for peers, by id.
    pub dial: BTreeMap<String, String>,
    /// See [`Flags::heartbeat_interval`].
    pub heartbeat_interval: Duration,
    /// See [`Flags::election_timeout`].
    pub election_timeout: Duration,
    /// See [`Flags::disk_stall_handover`].
    pub disk_stall_handover: Duration,
    /// See [`Flags::request_timeout`].
    pub request_timeout: Duration,
    /// See [`Flags::segment_bytes`].
    pub segment_bytes: u64,
    /// See [`Flags::retain_log_bytes`].
    pub retain_log_bytes: u64,
    /// See [`Flags::reserve_bytes`].
    pub reserve_bytes: u64,
    /// See [`Flags::max_key_bytes`].
    pub max_key_bytes: u32,
    /// See [`Flags::max_value_bytes`].
    pub max_value_bytes: u32,
    /// See [`Flags::max_index_bytes`].
    pub max_index_bytes: Option<u64>,
    /// See [`Flags::max_connections`].
    pub max_connections: usize,
    /// See [`Flags::log_level`].
    pub log_level: log::LevelFilter,
}

impl Config {
    /// Checks the flags against each other.
    pub fn new(flags: Flags) -> Result<Config> {
        let (host, port) = split_address("--id", &flags.id)?;
        let client = offset_port(&flags.id, port, CLIENT_PORT_OFFSET)?;
        let admin = offset_port(&flags.id, port, ADMIN_PORT_OFFSET)?;
        let listen_peer = listen_address("--listen-peer", flags.listen_peer.as_deref(), host, port)?;
        let listen_client = listen_address("--listen-client", flags.listen_client.as_deref(), host, client)?;
        let listen_admin = listen_address("--listen-admin", flags.listen_admin.as_deref(), host, admin)?;
        distinct_ports(&[("--listen-peer", &listen_peer), ("--listen-client", &listen_client), ("--listen-admin", &listen_admin)])?;
        let advertise_client = match &flags.advertise_client {
            Some(address) => split_address("--advertise-client", address).map(|_| address.clone())?,
            None => format!("{host}:{client}"),
        };
        check_durations(&flags)?;
        Ok(Config {
            members: members(&flags.id, &flags.peers)?,
            dial: dial_overrides(&flags)?,
            data_dir: flags.data_dir.clone().unwrap_or_else(|| default_data_dir(&flags.id)),
            listen_peer,
            listen_client,
            listen_admin,
            advertise_client,
            heartbeat_interval: flags.heartbeat_interval,
            election_timeout: flags.election_timeout,
            disk_stall_handover: flags.disk_stall_handover,
            request_timeout: flags.request_timeout,
            segment_bytes: within("--segment-bytes", flags.segment_bytes, 1 << 20, 1 << 30)?,
            retain_log_bytes: flags.retain_log_bytes,
            reserve_bytes: within("--reserve-bytes", flags.reserve_bytes.unwrap_or(flags.segment_bytes.min(64 << 20)), 0, 1 << 40)?,
            max_key_bytes: within("--max-key-bytes", flags.max_key_bytes, 1, record::MAX_KEY as u64)? as u32,
            max_value_bytes: within("--max-value-bytes", flags.max_value_bytes, 1, record::MAX_VALUE as u64)? as u32,
            max_index_bytes: flags.max_index_bytes,
            max_connections: within("--max-connections", flags.max_connections as u64, 1, 1_000_000)? as usize,
            log_level: flags.log_level,
            id: flags.id,
        })
    }
}

/// All founding members, sorted as text: `id` itself and `peers`. Refuses what can be no cluster.
pub fn members(id: &str, peers: &[String]) -> Result<Vec<String>> {
    let mut members = BTreeSet::from([id.to_owned()]);
    let mut ports_by_host: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    let (own_host, own_port) = split_address("--id", id)?;
    offset_port(id, own_port, ADMIN_PORT_OFFSET)?;
    ports_by_host.entry(own_host).or_default().push(own_port);
    for peer in peers {
        if peer == id {
            return Err(Error::Config(format!("--peers names this node itself ({peer}); list only the other nodes")));
        }
        let (host, port) = split_address("--peers", peer)?;
        if !members.insert(peer.clone()) {
            return Err(Error::Config(format!("--peers names {peer} twice")));
        }
        ports_by_host.entry(host).or_default().push(port);
    }
    for (host, ports) in &ports_by_host {
        for (at, first) in ports.iter().enumerate() {
            overlap(host, *first, &ports[at + 1..])?;
        }
    }
    if members.len() > 9 {
        return Err(Error::Config(format!("{} founding nodes; a cluster has 1 to 9, usually 3 or 5", members.len())));
    }
    Ok(members.into_iter().collect())
}

/// Two nodes of one host must be far enough apart that no derived port of one is a port of the other.
fn overlap(host: &str, first: u16, others: &[u16]) -> Result<()> {
    for second in others {
        let distance = first.abs_diff(*second);
        if [CLIENT_PORT_OFFSET, ADMIN_PORT_OFFSET].contains(&distance) {
            return Err(Error::Config(format!(
                "{host}:{first} and {host}:{second} overlap: each node also uses its port + {CLIENT_PORT_OFFSET} (clients) and + \
                 {ADMIN_PORT_OFFSET} (admin); choose ports closer together"
            )));
        }
    }
    Ok(())
}

fn dial_overrides(flags: &Flags) -> Result<BTreeMap<String, String>> {
    let mut overrides = BTreeMap::new();
    for entry in &flags.dial {
        let Some((id, address)) = entry.split_once('=') else {
            return Err(Error::Config(format!("--dial {entry}: expected ID=HOST:PORT")));
        };
        if !flags.peers.iter().any(|peer| peer == id) {
            return Err(Error::Config(format!("--dial {entry}: {id} is not among --peers")));
        }
        split_address("--dial", address)?;
        overrides.insert(id.to_string(), address.to_string());
    }
    Ok(overrides)
}

fn check_durations(flags: &Flags) -> Result<()> {
    let named = [
        ("--heartbeat-interval", flags.heartbeat_interval, Duration::from_millis(5), Duration::from_secs(10)),
        ("--election-timeout", flags.election_timeout, Duration::from_millis(20), Duration::from_secs(60)),
        ("--disk-stall-handover", flags.disk_stall_handover, Duration::from_millis(100), Duration::from_secs(600)),
        ("--request-timeout", flags.request_timeout, Duration::from_millis(10), Duration::from_secs(600)),
    ];
    for (name, value, least, most) in named {
        if value < least || value > most {
            return Err(Error::Config(format!("{name} {value:?} is outside {least:?} to {most:?}")));
        }
    }
    if flags.election_timeout < flags.heartbeat_interval * 2 {
        return Err(Error::Config(format!(
            "--election-timeout {:?} must be at least twice --heartbeat-interval {:?}, or live leaders are voted out",
            flags.election_timeout, flags.heartbeat_interval
        )));
    }
    Ok(())
}

/// `data/HOST-PORT` under the working directory.
fn default_data_dir(id: &str) -> PathBuf {
    let name: String = id.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    PathBuf::from("data").join(name)
}

fn listen_address(flag: &str, given: Option<&str>, host: &str, port: u16) -> Result<String> {
    match given {
        Some(address) => split_address(flag, address).map(|_| address.to_string()),
        None => Ok(format!("{host}:{port}")),
    }
}

fn distinct_ports(addresses: &[(&str, &str)]) -> Result<()> {
    for (at, (name, address)) in addresses.iter().enumerate() {
        if let Some((other, _)) = addresses[..at].iter().find(|(_, earlier)| earlier == address) {
            return Err(Error::Config(format!("{other} and {name} are both {address}; give each its own port")));
        }
    }
    Ok(())
}

fn offset_port(id: &str, port: u16, offset: u16) -> Result<u16> {
    port.checked_add(offset).ok_or_else(|| {
        Error::Config(format!("--id {id}: port + {offset} exceeds 65535; use a peer port of at most {}", u16::MAX - ADMIN_PORT_OFFSET))
    })
}

fn within(flag: &str, value: u64, least: u64, most: u64) -> Result<u64> {
    let reason = || format!("{flag} {value} is outside {least} to {most}; give a number, or for bytes one with a unit, for instance 64MiB");
    if (least..=most).contains(&value) { Ok(value) } else { Err(Error::Config(reason())) }
}

/// Splits `host:port`; the host may be a bracketed IPv6 address.
fn split_address<'a>(flag: &str, address: &'a str) -> Result<(&'a str, u16)> {
    let wrong = |why: &str| Error::Config(format!("{flag} {address}: {why}; expected HOST:PORT, for instance localhost:8001"));
    let (host, port) = address.rsplit_once(':').ok_or_else(|| wrong("no port"))?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(char::is_whitespace) || (host.contains(':') && !bracketed) {
        return Err(wrong("not a host name or address"));
    }
    match port.parse::<u16>() {
        Ok(0) => Err(wrong("port 0 cannot be named by others")),
        Ok(port) => Ok((host, port)),
        Err(_) => Err(wrong("the port is not a number from 1 to 65535")),
    }
}

fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    if text.chars().all(|c| c.is_ascii_digit()) {
        return Err(format!("'{text}' has no unit; write {text}ms or {text}s"));
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

fn parse_size(text: &str) -> std::result::Result<u64, String> {
    parse_size::Config::new().with_binary().parse_size(text).map_err(|error| format!("'{text}' is not a size such as 64MiB: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> std::result::Result<Config, String> {
        let flags = Flags::try_parse_from([&["apexkv"], arguments].concat()).map_err(|error| error.to_string())?;
        Config::new(flags).map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_command_line_gives_the_documented_ports() {
        let config = config(&["--id", "localhost:8001", "--peers", "localhost:8002,localhost:8003"]).expect("valid");
        assert_eq!(config.listen_client, "localhost:9001");
        assert_eq!(config.listen_admin, "localhost:10001");
        assert_eq!(config.advertise_client, "localhost:9001");
        assert_eq!(config.data_dir, PathBuf::from("data/localhost-8001"));
        assert_eq!(config.members, ["localhost:8001", "localhost:8002", "localhost:8003"]);
        assert_eq!((config.segment_bytes, config.reserve_bytes), (64 << 20, 64 << 20));
    }

    #[test]
    fn every_wrong_flag_is_refused_with_its_name() {
        let wrong: &[(&[&str], &str)] = &[
            (&["--id", "localhost"], "--id"),
            (&["--id", "localhost:0"], "port 0"),
            (&["--id", "localhost:64000"], "65535"),
            (&["--id", "a:8001", "--peers", "a:8001"], "itself"),
            (&["--id", "a:8001", "--peers", "b:1,b:1"], "twice"),
            (&["--id", "a:8001", "--peers", "a:9001"], "overlap"),
            (&["--id", "a:8001", "--peers", "a:8002,a:10002"], "overlap"),
            (&["--id", "a:8001", "--election-timeout", "150"], "unit"),
            (&["--id", "a:8001", "--election-timeout", "60ms"], "twice --heartbeat-interval"),
            (&["--id", "a:8001", "--segment-bytes", "1KiB"], "--segment-bytes"),
            (&["--id", "a:8001", "--reserve-bytes", "2TiB"], "--reserve-bytes"),
            (&["--id", "a:8001", "--max-value-bytes", "1GiB"], "--max-value-bytes"),
            (&["--id", "a:8001", "--dial", "b:1=c:2"], "--peers"),
            (&["--id", "a:8001", "--listen-client", "a:8001"], "own port"),
            (&["--id", "a:8001", "--pears", "b:1"], "--pears"),
        ];
        for (arguments, expected) in wrong {
            let message = config(arguments).expect_err("must be refused");
            assert!(message.contains(expected), "{arguments:?}: '{message}' does not name '{expected}'");
        }
    }

    #[test]
    fn bytes_that_do_not_belong_in_a_file_name_become_dashes() {
        assert_eq!(default_data_dir("[::1]:8001"), PathBuf::from("data/---1--8001"));
    }
}
