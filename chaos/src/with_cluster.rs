//! The command `with-cluster`: a scratch cluster around another command, for benchmarks and tests of one's own.

use crate::arguments::WithClusterArguments;
use crate::cluster::scratch::Scratch;
use crate::error::{EXIT_INTERRUPTED, Error};
use crate::stop::Stop;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

const POLL: Duration = Duration::from_millis(20);

/// Runs the command; the number is the exit code of what was run.
pub(crate) fn with_cluster(arguments: &WithClusterArguments) -> Result<u8, Error> {
    let stop = Stop::install()?;
    let mut scratch = Scratch::start(&arguments.scratch, &stop)?;
    if !scratch.wait_ready(&stop).inspect_err(|_| scratch.keep_folder())? {
        return Ok(EXIT_INTERRUPTED);
    }
    let status = run_command(arguments, &mut scratch).inspect_err(|_| scratch.keep_folder())?;
    scratch.shut_down().inspect_err(|_| scratch.keep_folder())?;
    // As a shell reports it.
    Ok(status.code().or(status.signal().map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn run_command(arguments: &WithClusterArguments, scratch: &mut Scratch) -> Result<ExitStatus, Error> {
    let [program, rest @ ..] = arguments.command.as_slice() else {
        return Err(Error::Usage("there is no command to run; name one behind --".to_owned()));
    };
    let doing = format!("run {}", Path::new(program).display());
    let endpoints = scratch.endpoints().join(",");
    let spawned = Command::new(program).args(rest).env("APEXKV_ENDPOINTS", endpoints).spawn();
    let mut child = spawned.map_err(|error| Error::local(&doing, error))?;
    wait(&mut child, scratch).map_err(|error| error.unwrap_or_else(|source| Error::local(doing, source)))
}

/// Waits for the command. A Ctrl-C reaches it directly, so there is nothing to pass on; a node that dies ends it.
fn wait(child: &mut Child, scratch: &mut Scratch) -> Result<ExitStatus, Result<Error, std::io::Error>> {
    loop {
        if let Some(status) = child.try_wait().map_err(Err)? {
            return Ok(status);
        }
        if let Err(death) = scratch.check_alive() {
            child.kill().and_then(|()| child.wait()).map_err(Err)?;
            return Err(Ok(death));
        }
        std::thread::sleep(POLL);
    }
}
