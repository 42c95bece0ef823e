//! TCP round trips without any work in between: a server process with a thread for each connection answers each request as soon as it is
//! there, those that arrived together with one write.

use super::process::{Part, end_with_parent};
use super::{ANSWER, LoadArguments, REQUEST, load, print};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

pub(crate) fn run(arguments: &LoadArguments) -> io::Result<()> {
    let mut server = Part::start(&["echo-server"])?;
    let port = server.numbers::<u16>()?[0];
    let before = server.processor_seconds()?;
    let measured = load::over_tcp(arguments, port)?;
    let mut object = measured.object(arguments.depth);
    let operations = measured.rounds() as f64 * f64::from(arguments.depth);
    object["limit"] = json!("echo");
    object["connections"] = json!(arguments.connections);
    object["depth"] = json!(arguments.depth);
    object["server_cpu_us"] = json!((server.processor_seconds()? - before) * 1e6 / operations.max(1.0));
    print(&object)
}

/// The server's process.
pub(crate) fn serve() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    print(&listener.local_addr()?.port())?;
    end_with_parent();
    for socket in listener.incoming() {
        let socket = socket?;
        // A connection that breaks concerns its client, which sees it.
        thread::Builder::new().stack_size(128 << 10).spawn(move || answer(socket))?;
    }
    Ok(())
}

fn answer(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut input = vec![0; 64 << 10];
    let answers = vec![b'k'; ANSWER * (input.len() / REQUEST)];
    let mut filled = 0;
    loop {
        match socket.read(&mut input[filled..])? {
            0 => return Ok(()),
            count => filled += count,
        }
        let whole = filled / REQUEST;
        if whole > 0 {
            socket.write_all(&answers[..whole * ANSWER])?;
            input.copy_within(whole * REQUEST..filled, 0);
            filled -= whole * REQUEST;
        }
    }
}
