//! The commands of `apexkv-client`. Each command has a function that returns its exit code or what went wrong; this file picks the
//! function and reports the rest. Nothing here knows bytes of the protocol.

mod args;
mod bench;
mod check;
mod escape;
mod exit;
mod json;
mod keys;
mod output;
mod scan;
mod status;

use apexkv_client::{Client, Error};
use args::{Arguments, Command};
use clap::Parser;
use exit::{Exit, Trouble};
use output::Output;

/// Runs the command line to its end.
pub(crate) fn run() -> Exit {
    // Without the handler the signal would end the process without an exit code. Failing to set it leaves just that.
    let _ = ctrlc::set_handler(|| std::process::exit(Exit::Interrupted as i32));
    let arguments = Arguments::parse();
    let mut output = Output::new(arguments.output);
    let result = execute(&arguments, &mut output).and_then(|exit| output.flush().map(|()| exit));
    result.unwrap_or_else(|trouble| {
        output.trouble(&trouble, arguments.command.key());
        trouble.exit()
    })
}

fn execute(arguments: &Arguments, output: &mut Output) -> Result<Exit, Trouble> {
    let mut client = connectable(arguments)?;
    match &arguments.command {
        Command::Check => check::run(&mut client, output),
        Command::Set { key, value } => keys::set(&mut client, output, key, value),
        Command::Get { key } => keys::get(&mut client, output, key),
        Command::Getv { key } => keys::get_versioned(&mut client, output, key),
        Command::Del { key } => keys::delete(&mut client, output, key),
        Command::Cas { key, version, value } => keys::compare_and_set(&mut client, output, key, *version, value),
        Command::Scan(options) => scan::run(&mut client, output, options),
        Command::Status => status::run(&client, output),
        Command::Ping => status::ping(&client, output),
        Command::Bench(options) => bench::run(arguments, output, options),
    }
}

/// A client with the settings of the command line; nothing is connected yet.
fn connectable(arguments: &Arguments) -> Result<Client, Error> {
    Client::builder().endpoints(arguments.endpoints.clone()).timeout(arguments.timeout).build()
}
