//! `apexkv restore`: a backup becomes the data directory of a member of a new cluster. Command line and words; the work is done in
//! [`apexkv::restore`].

use super::{Format, Output, RestoreArguments, Stop, raise_descriptor_limit, terminal_bar};
use apexkv::config;
use apexkv::error::{Error, Result};
use apexkv::restore::Backup;
use apexkv::storage::real::RealDisk;
use apexkv_client::text::escape;
use serde_json::{Map, json};
use std::sync::Arc;

/// Checks the file, makes the directory, and says what was made.
pub(super) fn run(arguments: &RestoreArguments, output: &mut Output) -> std::result::Result<(), Stop> {
    let members = config::members(&arguments.id, &arguments.peers)?;
    let (backup, cluster) = restore(arguments, &members)?;
    let last = backup.last();
    match arguments.output {
        Format::Text => {
            let what = format!("{} keys, the state at index {} of term {}", backup.keys(), last.index, last.term);
            let dir = escape(arguments.data_dir.display().to_string().as_bytes());
            output.line(&format!("restored {what}, into {dir} as {} of cluster {cluster:032x}", arguments.id))
        }
        Format::Json => {
            let entries = [
                ("ok", json!(true)),
                ("keys", json!(backup.keys())),
                ("term", json!(last.term)),
                ("index", json!(last.index)),
                ("cluster_id", json!(format!("{cluster:032x}"))),
                ("id", json!(arguments.id)),
                ("members", json!(members)),
                ("data_dir", json!(arguments.data_dir.display().to_string())),
            ];
            output.object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>())
        }
    }
}

fn restore(arguments: &RestoreArguments, members: &[String]) -> Result<(Backup, u128)> {
    let bar = terminal_bar();
    let progress = |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    };
    bar.set_message("checking");
    let backup = Backup::open(&arguments.file, &progress)?;
    raise_descriptor_limit();
    let disk = Arc::new(RealDisk::open(&arguments.data_dir)?);
    bar.set_message("restoring");
    let restored = backup.restore(disk, &arguments.id, members, &progress);
    bar.finish_and_clear();
    match restored {
        Ok(founding) => Ok((backup, founding.cluster)),
        Err(Error::Io { doing, source }) => {
            let remedy = format!("{doing} (what {} holds is incomplete: empty it and restore again)", arguments.data_dir.display());
            Err(Error::Io { doing: remedy, source })
        }
        Err(error) => Err(error),
    }
}
