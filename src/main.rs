//! The server binary: flags to settings, settings to a running server, and the exit code. No logic of its own. A first argument that
//! names a tool runs that instead; the server has no argument that does not start with a dash.

mod tools;

use std::io::Write;

use apexkv::config::{Config, Flags};
use apexkv::server::{self, log_sink};
use clap::Parser;

fn main() {
    if let Some(code) = tools::run_if_named() {
        std::process::exit(code);
    }
    let flags = Flags::parse();
    let level = flags.log_level;
    let outcome = Config::new(flags).and_then(|config| {
        log_sink::install(level)?;
        log_sink::install_panic_hook();
        server::run(&config)
    });
    log_sink::drain();
    if let Err(error) = outcome {
        // Standard error may be gone; the exit code says it too.
        let _ = writeln!(std::io::stderr(), "apexkv: {error}");
        std::process::exit(error.exit_code());
    }
}
