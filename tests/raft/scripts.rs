//! Golden scripts: `tests/scripts/raft/*.txt`. Each tells a story in comments, gives commands and hand-written `expect` lines, and ends,
//! after `---`, with the recorded transcript of every message delivered and every change of state. `APEXKV_BLESS=1` records the
//! transcripts anew; it never touches what stands above, and the `expect` lines hold in any case.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use apexkv::raft::{NodeId, Settings};

use super::cluster::{Cluster, ReadState, describe};
use super::command::{Command, Expect, Which, parse};
use super::host::{Entry, small_settings};
use super::network::{Link, links_between};

/// More deliveries than this without an end are a loop.
const DELIVERIES_MAX: usize = 10_000;

/// A script as it runs.
struct Script {
    cluster: Cluster,
    settings: Settings,
    hide_heartbeats: bool,
    /// Members whose disk finishes nothing by itself.
    slow: BTreeSet<NodeId>,
    held: BTreeSet<Link>,
    proposals: BTreeMap<String, bool>,
}

impl Script {
    fn new() -> Script {
        let cluster = Cluster::new(1, 0, small_settings(), 0);
        let (slow, held, proposals) = Default::default();
        Script { cluster, settings: small_settings(), hide_heartbeats: false, slow, held, proposals }
    }

    /// Runs one command and gives the lines it adds to the transcript.
    fn run(&mut self, command: Command) -> Result<Vec<String>, String> {
        self.cluster.trace = Some(Vec::new());
        match command {
            Command::Cluster { voters, learners } => {
                self.cluster = Cluster::new(voters, learners, self.settings.clone(), 1);
                self.cluster.trace = Some(Vec::new());
            }
            Command::Settings(pairs) => pairs.iter().try_for_each(|(key, value)| self.set(key, *value))?,
            Command::HideHeartbeats => self.hide_heartbeats = true,
            Command::Expect(expect) => self.expect(&expect)?,
            Command::Show => {
                for id in self.cluster.ids() {
                    let line = format!("{id} {}", self.cluster.state(id));
                    self.cluster.note(|| line);
                }
            }
            Command::State { .. } | Command::Slow(_) | Command::Fast(_) | Command::Sync(..) | Command::Store(_) => self.on_disk(command),
            Command::Crash(_) | Command::Kill(_) | Command::Restart(_) | Command::Compact(..) => self.on_member(command),
            Command::Deliver(_) | Command::Lose(_) | Command::Repeat(_) | Command::Hold(_) | Command::Release(_) => {
                self.on_packets(command)
            }
            Command::Cut(_) | Command::CutLink(_) | Command::Join | Command::Break(..) => self.on_links(command),
            _ => self.on_core(command),
        }
        self.settle();
        let lines = self.cluster.trace.take().unwrap_or_default();
        Ok(lines.into_iter().filter(|line| !self.hide_heartbeats || !line.contains(" Heartbeat")).collect())
    }

    fn set(&mut self, key: &str, value: u64) -> Result<(), String> {
        let ticks = match key {
            "append" => {
                self.settings.append_bytes = value;
                return Ok(());
            }
            "window" => {
                self.settings.window_bytes = value;
                return Ok(());
            }
            "election" => &mut self.settings.election_ticks,
            "heartbeat" => &mut self.settings.heartbeat_ticks,
            "suspicion" => &mut self.settings.suspicion_ticks,
            "election-max" => &mut self.settings.election_ticks_max,
            "resend" => &mut self.settings.resend_ticks,
            "stall" => &mut self.settings.stall_ticks,
            "ban" => &mut self.settings.ban_ticks,
            _ => return Err(format!("there is no setting {key:?}")),
        };
        *ticks = u32::try_from(value).map_err(|_| format!("{value} ticks are too many"))?;
        Ok(())
    }

    // ---- commands ----

    /// What a client, a clock or the host's own watch over its disk does.
    fn on_core(&mut self, command: Command) {
        match command {
            Command::Elect(id) => {
                self.time_out(id);
                self.deliver_all();
            }
            Command::Timeout(ids) => ids.into_iter().for_each(|id| self.time_out(id)),
            Command::Tick(id, ticks) => self.cluster.tick(id, ticks),
            Command::Ticks(ticks) => (0..ticks).for_each(|_| {
                self.cluster.ids().into_iter().for_each(|id| self.cluster.tick(id, 1));
                self.deliver_all();
            }),
            Command::Propose(id, labels) => {
                let taken = self.cluster.propose(id, &labels);
                self.cluster.note(|| format!("{id} {} {}", if taken { "takes" } else { "refuses" }, labels.join(" ")));
                self.proposals.extend(labels.into_iter().map(|label| (label, taken)));
            }
            Command::Read(id, name) => {
                let admitted = self.cluster.read(id, &name);
                self.cluster.note(|| format!("{id} {} read {name}", if admitted { "admits" } else { "refuses" }));
            }
            Command::Transfer(id, to) => {
                let begun = self.cluster.transfer(id, to);
                self.cluster.note(|| format!("{id} {} a transfer", if begun { "begins" } else { "refuses" }));
            }
            Command::Arriving(id, peer) => self.cluster.arriving(id, peer),
            Command::Room(id, room) => self.cluster.host_mut(id).room = room,
            Command::Stalled(id, stalled) => self.cluster.set_disk(id, !stalled, stalled),
            Command::Short(id, short) => self.cluster.set_short(id, short),
            Command::Floor(id, floor) => self.cluster.set_floor(id, floor),
            other => unreachable!("{other:?} is no command for the core"),
        }
    }

    fn on_disk(&mut self, command: Command) {
        match command {
            Command::State { id, term, vote, log, commit, config } => {
                self.cluster.crash(id, 0, false);
                let entry = |(index, term): (u64, &u64)| {
                    let config = config.iter().find(|(at, _)| *at == index).map(|(_, config)| config.clone());
                    Entry { term: *term, label: String::new(), config }
                };
                let disk = &mut self.cluster.host_mut(id).disk;
                disk.base = 0;
                (disk.hard_state.term, disk.hard_state.vote, disk.commit) = (term, vote, commit);
                disk.log = (1..).zip(&log).map(entry).collect();
                self.cluster.start(id);
            }
            Command::Slow(id) => {
                self.slow.insert(id);
            }
            Command::Fast(id) => {
                self.slow.remove(&id);
            }
            Command::Sync(id, count) => self.cluster.finish_writes(id, count),
            Command::Store(id) => self.cluster.finish_hard_state(id),
            other => unreachable!("{other:?} is no command for a disk"),
        }
    }

    fn on_member(&mut self, command: Command) {
        match command {
            Command::Crash(id) => self.cluster.crash(id, 0, false),
            Command::Kill(id) => {
                self.cluster.crash(id, 0, false);
                let others = self.cluster.ids().into_iter().filter(|other| *other != id);
                others.for_each(|other| self.cluster.link_down(other, id));
            }
            Command::Restart(id) => self.cluster.start(id),
            Command::Compact(id, index) => self.cluster.compact(id, index),
            other => unreachable!("{other:?} is no command for a member"),
        }
    }

    fn on_packets(&mut self, command: Command) {
        match command {
            Command::Deliver(None) => self.deliver_all(),
            Command::Deliver(Some(which)) => self.take(&which).into_iter().for_each(|packet| {
                self.cluster.deliver(packet);
                self.settle();
            }),
            Command::Lose(which) => self.take(&which).iter().for_each(|packet| self.cluster.note(|| format!("lost: {}", describe(packet)))),
            Command::Repeat(which) => {
                for link in &which.links {
                    let packets: Vec<_> =
                        self.positions(*link, which.one).filter_map(|at| self.cluster.network.queue(*link).nth(at).cloned()).collect();
                    packets.into_iter().for_each(|packet| {
                        self.cluster.network.send(packet);
                    });
                }
            }
            Command::Hold(which) => self.held.extend(which.links),
            Command::Release(which) => which.links.iter().for_each(|link| {
                self.held.remove(link);
            }),
            other => unreachable!("{other:?} is no command for packets"),
        }
    }

    fn on_links(&mut self, command: Command) {
        match command {
            Command::Cut(ids) => {
                let others = self.cluster.ids().into_iter().filter(|id| !ids.contains(id));
                let links = others.flat_map(|other| ids.iter().flat_map(move |id| links_between(*id, other)).collect::<Vec<_>>());
                links.for_each(|link| self.cluster.network.cut(link));
            }
            Command::CutLink(which) => which.links.into_iter().for_each(|link| self.cluster.network.cut(link)),
            Command::Join => self.cluster.network.join_all(),
            Command::Break(a, b) => {
                links_between(a, b).into_iter().for_each(|link| self.cluster.network.cut(link));
                self.cluster.link_down(a, b);
                self.cluster.link_down(b, a);
            }
            other => unreachable!("{other:?} is no command for links"),
        }
    }

    // ---- time and delivery ----

    fn time_out(&mut self, id: NodeId) {
        let ticks = self.cluster.host(id).node.as_ref().map_or(0, |node| node.ticks_to_deadline());
        self.cluster.tick(id, ticks);
        self.settle();
    }

    /// Lets members act, and disks that are not slow finish, until nothing changes without a delivery.
    fn settle(&mut self) {
        for id in self.cluster.ids() {
            for _ in 0..3 {
                self.cluster.flush(id);
                self.cluster.host_mut(id).issue_write();
                if !self.slow.contains(&id) {
                    self.cluster.finish_hard_state(id);
                    self.cluster.finish_install(id);
                    self.cluster.finish_writes(id, usize::MAX);
                }
            }
        }
    }

    fn deliver_all(&mut self) {
        for _ in 0..DELIVERIES_MAX {
            self.settle();
            let busy = self.cluster.network.busy().into_iter().find(|link| !self.held.contains(link));
            let Some(link) = busy else { return };
            if let Some(packet) = self.cluster.network.take(link, 0) {
                self.cluster.deliver(packet);
            }
        }
        panic!("{DELIVERIES_MAX} deliveries and no end");
    }

    fn positions(&self, link: Link, one: Option<bool>) -> std::ops::Range<usize> {
        let count = self.cluster.network.queue(link).count();
        match one {
            None => 0..count,
            Some(false) => 0..count.min(1),
            Some(true) => count.saturating_sub(1)..count,
        }
    }

    fn take(&mut self, which: &Which) -> Vec<super::host::Packet> {
        let mut packets = Vec::new();
        for link in &which.links {
            let positions = self.positions(*link, which.one);
            packets.extend(positions.clone().filter_map(|_| self.cluster.network.take(*link, positions.start)));
        }
        packets
    }

    // ---- expectations ----

    fn expect(&self, expect: &Expect) -> Result<(), String> {
        let (held, found) = match expect {
            Expect::State(id, wanted) => {
                let state = self.cluster.state(*id);
                (wanted.iter().all(|word| state.split(' ').any(|part| part == word)), format!("{id} {state}"))
            }
            Expect::Leader(wanted) => (self.cluster.leader() == *wanted, format!("the leader is {:?}", self.cluster.leader())),
            Expect::Committed(wanted) => {
                let committed = self.cluster.oracle.committed();
                (committed == *wanted, format!("{committed} entries are committed"))
            }
            Expect::Read(name, wanted) => {
                let state = self.cluster.reads.iter().find(|read| read.name == *name).map(|read| read.state);
                let word = match state {
                    Some(ReadState::Waiting) => "waiting",
                    Some(ReadState::Confirmed(_)) => "confirmed",
                    Some(ReadState::Refused) | None => "refused",
                };
                (word == wanted, format!("read {name} is {word}"))
            }
            Expect::Proposal(label, wanted) => {
                let taken = self.proposals.get(label);
                (taken == Some(wanted), format!("{label} was taken: {taken:?}"))
            }
            Expect::Deadline(id, from, to) => {
                let ticks = self.cluster.host(*id).node.as_ref().map_or(0, |node| node.ticks_to_deadline());
                ((*from..=*to).contains(&ticks), format!("{id}'s next timer runs out in {ticks} ticks"))
            }
            Expect::Packet(link, text) | Expect::NoPacket(link, text) => {
                let links = [false, true].map(|bulk| Link { bulk, ..*link });
                let lines: Vec<String> = links.iter().flat_map(|link| self.cluster.network.queue(*link)).map(describe).collect();
                let found = lines.iter().any(|line| line.contains(text.as_str()));
                (found == matches!(expect, Expect::Packet(..)), format!("under way are: {lines:?}"))
            }
        };
        if held { Ok(()) } else { Err(found) }
    }
}

/// Runs the commands of a script and gives its transcript, or says which line failed.
fn transcript(head: &str) -> Result<String, String> {
    let mut script = Script::new();
    let mut transcript = String::new();
    for (number, line) in (1..).zip(head.lines()) {
        let failed = |reason: String| format!("line {number}: {line}: {reason}\n--- transcript so far\n{transcript}");
        let quiet = line.strip_prefix("quietly ");
        let Some(command) = parse(quiet.unwrap_or(line)).map_err(failed)? else { continue };
        let silent = matches!(command, Command::Expect(_));
        let lines = script.run(command).map_err(failed)?;
        if !silent {
            transcript.push_str(&format!("> {}\n", line.split('#').next().unwrap_or_default().trim()));
        }
        lines.iter().filter(|_| quiet.is_none()).for_each(|line| transcript.push_str(&format!("{line}\n")));
    }
    Ok(transcript)
}

/// Runs one file; gives what is wrong with it, if anything.
fn check(path: &Path, bless: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let (head, recorded) = text.split_once("---\n").unwrap_or((&text, ""));
    let ended = std::panic::catch_unwind(|| transcript(head));
    let transcript = ended.map_err(|_| "it panics, as told above".to_string())??;
    if !head.lines().any(|line| line.starts_with("expect ")) {
        return Err("no expect line says what the story is about".to_string());
    }
    if transcript == recorded {
        return Ok(());
    }
    if bless {
        return std::fs::write(path, format!("{head}---\n{transcript}")).map_err(|error| error.to_string());
    }
    let differing = transcript.lines().zip(recorded.lines()).position(|(now, then)| now != then);
    let at = differing.unwrap_or(transcript.lines().count().min(recorded.lines().count()));
    let line = |text: &str| text.lines().nth(at).unwrap_or("(its end)").to_string();
    Err(format!(
        "the transcript differs in line {}:\n  recorded: {}\n  now:      {}\nAPEXKV_BLESS=1 records it anew; read the difference",
        at + 1,
        line(recorded),
        line(&transcript)
    ))
}

#[test]
fn every_script_goes_as_recorded_and_as_expected() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/raft");
    let bless = std::env::var_os("APEXKV_BLESS").is_some_and(|value| value == "1");
    let entries = std::fs::read_dir(&folder).expect("the folder of scripts is part of the repository");
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    let failures: Vec<String> =
        paths.iter().filter_map(|path| Some(format!("{}: {}", path.display(), check(path, bless).err()?))).collect();
    assert!(failures.is_empty(), "{} of {} scripts fail:\n{}", failures.len(), paths.len(), failures.join("\n\n"));
}
