//! The commands of `apexkv-client`. Each command has a function that returns its exit code or what went wrong; this file picks the
//! function and reports the rest. Nothing here knows bytes of the protocol.

mod args;
mod backup;
mod bench;
mod check;
mod exit;
mod json;
mod keys;
mod output;
mod scan;
mod shell;
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
    let mut client = match connectable(&arguments) {
        Ok(client) => client,
        Err(error) => return report(&mut Output::new(arguments.output), None, Err(error.into())),
    };
    match &arguments.command {
        Command::Shell => shell::run(&arguments, &mut client),
        command => perform(&arguments, command, &mut client),
    }
}

/// One command from its first byte of output to its exit code.
fn perform(arguments: &Arguments, command: &Command, client: &mut Client) -> Exit {
    let in_shell = matches!(arguments.command, Command::Shell);
    let mut output = Output::new(arguments.output).ending_lines(in_shell);
    let result = execute(arguments, command, client, &mut output).and_then(|exit| output.flush().map(|()| exit));
    report(&mut output, command.key(), result)
}

fn report(output: &mut Output, key: Option<&[u8]>, result: Result<Exit, Trouble>) -> Exit {
    result.unwrap_or_else(|trouble| {
        output.trouble(&trouble, key);
        trouble.exit()
    })
}

fn execute(arguments: &Arguments, command: &Command, client: &mut Client, output: &mut Output) -> Result<Exit, Trouble> {
    match command {
        Command::Check => check::run(client, output),
        Command::Set { key, value } => keys::set(client, output, key, value),
        Command::Get { key } => keys::get(client, output, key),
        Command::Getv { key } => keys::get_versioned(client, output, key),
        Command::Del { key } => keys::delete(client, output, key),
        Command::Cas { key, version, value } => keys::compare_and_set(client, output, key, *version, value),
        Command::Scan(options) => scan::run(client, output, options),
        Command::Status(options) => status::run(client, output, options),
        Command::Ping => status::ping(client, output),
        Command::Backup(options) => backup::run(client, output, options),
        Command::Bench(options) => bench::run(arguments, output, options),
        Command::Completions { shell } => shell::completions(output, *shell),
        Command::Shell => Err(Error::Usage("this is a shell already; type help for the commands".to_owned()).into()),
    }
}

/// A client with the settings of the command line; nothing is connected yet.
fn connectable(arguments: &Arguments) -> Result<Client, Error> {
    Client::builder().endpoints(arguments.endpoints.clone()).timeout(arguments.timeout).build()
}
