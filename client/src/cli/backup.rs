//! The backup: the stream goes into a file of another name, which takes the wanted one when it is whole and durable.

use super::args::BackupArguments;
use super::exit::{Exit, Trouble};
use super::json;
use super::output::Output;
use apexkv_client::backup::{Header, Trailer};
use apexkv_client::{Client, Error};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// So often a backup begins anew when its node goes away.
const RESTARTS_MAX: u32 = 5;

/// What was written.
struct Written {
    header: Header,
    records: u64,
    bytes: u64,
}

pub(crate) fn run(client: &mut Client, output: &mut Output, arguments: &BackupArguments) -> Result<Exit, Trouble> {
    let target = &arguments.file;
    if target.as_os_str() == "-" {
        let remedy = "name a file: a backup counts only when it is whole and durable";
        return Err(Error::Usage(format!("a backup cannot go to standard output; {remedy}")).into());
    }
    refuse_existing(arguments)?;
    let temporary = temporary(target);
    let written = whole(client, output, &temporary).and_then(|written| {
        refuse_existing(arguments)?;
        fs::rename(&temporary, target).and_then(|()| sync_directory(target)).map_err(|error| local(target, error))?;
        Ok(written)
    });
    if written.is_err() {
        // What is not whole is of no use. If it cannot be removed either, the first trouble is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    print(output, target, &written?)
}

fn refuse_existing(arguments: &BackupArguments) -> Result<(), Trouble> {
    if arguments.force || !arguments.file.exists() {
        return Ok(());
    }
    let reason = format!("{} exists; name another file, or replace it with --force", arguments.file.display());
    Err(Error::Usage(reason).into())
}

/// `FILE.tmp`, beside it so that a rename suffices.
fn temporary(target: &Path) -> PathBuf {
    let mut name = OsString::from(target);
    name.push(".tmp");
    PathBuf::from(name)
}

fn local(path: &Path, error: io::Error) -> Trouble {
    Trouble::Local("write the backup", io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Writes one backup from its beginning to its end, from whichever node leads by then.
fn whole(client: &mut Client, output: &mut Output, path: &Path) -> Result<Written, Trouble> {
    let mut restarts = 0;
    loop {
        let mut begun = false;
        match stream(client, path, &mut begun) {
            // Where nothing began, the time limit for finding a leader is over.
            Err(Trouble::Client(error @ Error::Unavailable { .. })) if begun && restarts < RESTARTS_MAX => {
                restarts += 1;
                output.note(&format!("apexkv-client: the backup starts over: {error}"))?;
            }
            ended => return ended,
        }
    }
}

fn stream(client: &mut Client, path: &Path, begun: &mut bool) -> Result<Written, Trouble> {
    let failed = |error| local(path, error);
    let mut backup = client.backup()?;
    *begun = true;
    let bar = bar(backup.bytes());
    let header = backup.header();
    // Values may be anybody's secrets: readable by the owner only.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let front = header.encode();
    file.write_all(&front).map_err(failed)?;
    let mut trailer = Trailer::behind(&front);
    while let Some((count, records)) = backup.next_records()? {
        file.write_all(records).map_err(failed)?;
        trailer.add(count, records);
        bar.set_position(trailer.record_bytes);
    }
    file.write_all(&trailer.encode()).map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    bar.finish_and_clear();
    let bytes = file.metadata().map_err(failed)?.len();
    Ok(Written { header, records: trailer.records, bytes })
}

/// On a terminal only. The length is an estimate that is never too small.
fn bar(bytes: u64) -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(bytes) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("{bar:40} {bytes} of at most {total_bytes}, {bytes_per_sec}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn print(output: &mut Output, target: &Path, written: &Written) -> Result<Exit, Trouble> {
    let Written { header, records, bytes } = written;
    if output.is_json() {
        let mut object = json::object(true, "OK");
        object.insert("file".to_owned(), json!(target.display().to_string()));
        object.insert("bytes".to_owned(), json!(bytes));
        object.insert("records".to_owned(), json!(records));
        object.insert("cluster_id".to_owned(), json!(format!("{:032x}", header.cluster)));
        object.insert("term".to_owned(), json!(header.term));
        object.insert("index".to_owned(), json!(header.index));
        output.object(object)?;
    } else {
        let state = format!("the state of cluster {:032x} at index {}", header.cluster, header.index);
        output.line(&format!("{state}: {records} records, {bytes} bytes"))?;
    }
    Ok(Exit::Success)
}
