//! One member: its disk, which outlives it, and its process while it runs. The process is the shipping replica, log writer, preparer,
//! marks and registry of links; only the threads around them are played here, with the order of their work drawn from the seed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use apexkv::error::{Error, Result};
use apexkv::protocol::handshake::{Hello, LinkClass};
use apexkv::protocol::peer::Note;
use apexkv::raft::{EntryId, HardState, Node, NodeId};
use apexkv::server::event::{Event, Incoming, LinkChange};
use apexkv::server::gate::ReadGate;
use apexkv::server::identity::{Standing, ids_of, numbered};
use apexkv::server::marks::Marks;
use apexkv::server::recovered::recovered;
use apexkv::server::registry::{Inbox, Registry};
use apexkv::server::replica::Replica;
use apexkv::server::shared::bare_hello;
use apexkv::server::view::PeerView;
use apexkv::storage::Options;
use apexkv::storage::directory::{Directory, Founding, FoundingMember, Identity, Lock, Opened, Workers};
use apexkv::storage::hinter::{HintJob, Hinter};
use apexkv::storage::merge::{MergeJob, Merger};
use apexkv::storage::preparer::Preparer;
use apexkv::storage::retire::Discarded;
use apexkv::storage::scrub::{ScrubJob, Scrubber};
use apexkv::storage::simulated::{DiskImage, SimulatedDisk};
use apexkv::storage::snapshot::{Received, SnapshotMaker, SnapshotWriter};
use apexkv::storage::store::Store;
use apexkv::storage::writer::{Completion, Job, LogWriter};

use super::damage::RolledBack;
use super::plan::{Plan, Time};
use super::repair::Harm;

/// A member's name, by its position.
pub(crate) fn name_of(node: usize) -> String {
    format!("n{}:1", node + 1)
}

/// A member's number in the core, by its position.
pub(crate) fn number_of(node: usize) -> NodeId {
    NodeId(node as u32 + 1)
}

/// A member's position, by its number.
pub(crate) fn position_of(node: NodeId) -> usize {
    node.0 as usize - 1
}

/// The inbox of a Raft thread.
#[derive(Clone, Default)]
pub(crate) struct Letters(Arc<Mutex<VecDeque<Event<u64>>>>);

impl Letters {
    pub(crate) fn push(&self, event: Event<u64>) {
        self.0.lock().push_back(event);
    }

    pub(crate) fn take(&self) -> Option<Event<u64>> {
        self.0.lock().pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Inbox for Letters {
    fn message(&self, incoming: Incoming) {
        self.push(Event::Peer(incoming));
    }

    fn note(&self, peer: NodeId, note: Note) {
        self.push(Event::Note(peer, note));
    }

    fn link(&self, peer: NodeId, change: LinkChange) {
        self.push(Event::Link(peer, change));
    }

    fn received(&self, received: Received, term: u64) {
        self.push(Event::Received { received: Box::new(received), term });
    }

    fn snapshot_ended(&self, peer: NodeId) {
        self.push(Event::SnapshotEnded(peer));
    }
}

/// What the log writer works on.
pub(crate) enum Running {
    /// Its effects on the disk are still to come.
    Before(Job),
    /// Done, and not yet reported.
    Done(Completion),
}

/// What the merger is asked for.
pub(crate) enum Chore {
    Merge(MergeJob),
    /// Files that the manifest no longer names.
    Discard(Discarded),
}

/// A snapshot that is being taken in.
pub(crate) struct Arriving {
    /// Number of the transfer.
    pub(crate) number: usize,
    pub(crate) writer: SnapshotWriter,
}

/// An outgoing link.
pub(crate) struct LinkOut {
    pub(crate) connection: Option<usize>,
    pub(crate) pause: Time,
    /// Only the dialing with this number goes on.
    pub(crate) dialing: u64,
}

/// A running process.
pub(crate) struct Process {
    pub(crate) life: u64,
    pub(crate) replica: Replica<u64>,
    pub(crate) writer: LogWriter,
    pub(crate) preparer: Preparer,
    pub(crate) hinter: Hinter,
    /// Taken out while it merges.
    pub(crate) merger: Option<Merger>,
    pub(crate) scrubber: Scrubber,
    pub(crate) snapshots: SnapshotMaker,
    pub(crate) store: Arc<Store>,
    pub(crate) gate: Arc<ReadGate<u64>>,
    pub(crate) marks: Marks,
    pub(crate) view: PeerView,
    pub(crate) registry: Registry,
    pub(crate) inbox: Letters,
    pub(crate) identity: Identity,
    pub(crate) jobs: VecDeque<Job>,
    pub(crate) running: Option<Running>,
    /// What the preparer works on.
    pub(crate) preparing: Option<u64>,
    pub(crate) requests: VecDeque<u64>,
    /// What the hinter works on; it is given one at a time.
    pub(crate) hinting: Option<HintJob>,
    /// What the merger is to do; it works on the first.
    pub(crate) chores: VecDeque<Chore>,
    /// What the scrubber reads.
    pub(crate) scrubbing: Option<ScrubJob>,
    /// One snapshot is taken in at a time.
    pub(crate) arriving: Option<Arriving>,
    /// Local milliseconds that the replica has been told of.
    pub(crate) ticked: u64,
    pub(crate) wake_at: Option<Time>,
    pub(crate) attempts: u64,
    pub(crate) links: BTreeMap<(usize, LinkClass), LinkOut>,
    /// It is to end once it no longer leads, or at this time.
    pub(crate) stopping: Option<(Time, Time)>,
    pub(crate) leads: Option<u64>,
    /// It ends over damage as soon as that is remembered.
    pub(crate) ending: bool,
    /// A snapshot was installed while the log was fetched again.
    pub(crate) filled_by_snapshot: bool,
    _lock: Lock,
}

/// A member.
pub(crate) struct Member {
    pub(crate) disk: Arc<SimulatedDisk>,
    pub(crate) process: Option<Process>,
    /// Counts the starts, successful or not.
    pub(crate) lives: u64,
    /// The machine has power, so that a stranger's packet is answered by a reset.
    pub(crate) powered: bool,
    pub(crate) paused_until: Time,
    pub(crate) hung_until: Time,
    pub(crate) slow_until: Time,
    pub(crate) slow_extra: Time,
    pub(crate) full_until: Time,
    /// Local time: so many microseconds at that moment, running at so many thousandths.
    pub(crate) clock: (u64, Time, u64),
    /// What was done to its files by other than crashes.
    pub(crate) harm: Harm,
    /// Its disk was replaced by an empty one.
    pub(crate) wiped: bool,
    /// Its disk may hold less than it did: the next start is held against what the node had shown.
    pub(crate) older: bool,
    /// What its disk held once.
    pub(crate) copy: Option<DiskImage>,
    /// It came back without something that it had promised.
    pub(crate) rolled_back: Option<RolledBack>,
    /// It refused to start or was refused by the others, and stays down.
    pub(crate) gone: bool,
}

impl Member {
    pub(crate) fn new(disk: Arc<SimulatedDisk>) -> Member {
        Member {
            disk,
            process: None,
            lives: 0,
            powered: true,
            paused_until: 0,
            hung_until: 0,
            slow_until: 0,
            slow_extra: 0,
            full_until: 0,
            clock: (0, 0, 1000),
            harm: Harm::default(),
            wiped: false,
            older: false,
            copy: None,
            rolled_back: None,
            gone: false,
        }
    }

    /// Whether something of its files may be missing or wrong.
    pub(crate) fn is_damaged(&self) -> bool {
        self.harm.is_any()
    }

    /// Microseconds on its own clock.
    pub(crate) fn local(&self, now: Time) -> u64 {
        let (base, since, per_mille) = self.clock;
        base + (now - since) * per_mille / 1000
    }

    /// When so many local microseconds will have passed.
    pub(crate) fn after(&self, now: Time, local: u64) -> Time {
        now + (local * 1000).div_ceil(self.clock.2)
    }

    pub(crate) fn set_clock(&mut self, now: Time, per_mille: u64) {
        self.clock = (self.local(now), now, per_mille);
    }
}

/// What a started process found on its disk.
pub(crate) struct Found {
    pub(crate) hard_state: HardState,
    /// The entry before the first one of its log.
    pub(crate) base: EntryId,
    /// The terms of the entries behind it.
    pub(crate) terms: Vec<u64>,
    /// The last entry of a log that was put aside; zero if there is none.
    pub(crate) floor: EntryId,
}

/// The founding record of a cluster, and the disks of its members right after founding.
pub(crate) fn found_cluster(nodes: usize) -> Result<(Founding, Vec<DiskImage>)> {
    let disks: Vec<Arc<SimulatedDisk>> = (0..nodes).map(|node| SimulatedDisk::new(node as u64)).collect();
    let mut directories = Vec::new();
    for (node, disk) in disks.iter().enumerate() {
        directories.push(Directory::open(disk.boot(), &name_of(node))?);
    }
    let members = directories.iter().enumerate();
    let members = members.map(|(node, directory)| FoundingMember { id: name_of(node), uuid: directory.identity().uuid }).collect();
    let founding = Founding { cluster: 0xC1, members };
    for directory in &mut directories {
        directory.found(&founding)?;
    }
    drop(directories);
    disks.iter().for_each(|disk| disk.kill());
    Ok((founding, disks.iter().map(|disk| disk.snapshot()).collect()))
}

/// Starts a process on a disk, as the server does.
pub(crate) fn start(plan: &Plan, member: &Member, node: usize, founding: &Founding, seed: u64) -> Result<(Process, Found)> {
    let mut directory = Directory::open(member.disk.boot(), &name_of(node))?;
    let (marks, payload) = match directory.founding() {
        Some(_) => directory.take_marks(),
        None => return Err(Error::Directory("the founding record is gone".into())),
    };
    let opened = directory.open_log(&Options { segment_bytes: plan.segment_bytes, reserve_bytes: plan.segment_bytes })?;
    let Opened { lock, identity, hard_state, log, applier, workers, snapshots, store, commit, floor, .. } = opened;
    let Workers { writer, preparer, hinter, merger, scrubber } = workers;
    let recovered = recovered(founding, hard_state, &log, commit);
    let (base, last) = (recovered.outline.base(), recovered.outline.last());
    let terms = (base.index + 1..=last.index).map(|index| recovered.outline.term_of(index).unwrap_or(0)).collect();
    let mut core = Node::new(number_of(node), plan.settings.clone(), seed, recovered);
    core.set_floor(floor);
    let inbox = Letters::default();
    let peers = numbered(founding).into_iter().map(|(peer, _)| position_of(peer)).filter(|peer| *peer != node);
    let link = || LinkOut { connection: None, pause: 0, dialing: 0 };
    let classes = [LinkClass::Control, LinkClass::Bulk];
    let process = Process {
        life: member.lives,
        replica: Replica::new(core, log, applier, plan.limits.clone()),
        writer,
        preparer,
        hinter,
        merger: Some(merger),
        scrubber,
        snapshots,
        store,
        gate: Arc::default(),
        marks: Marks::open(marks, &payload, founding, &name_of(node))?,
        view: PeerView::new(hard_state.term, last.max(floor)),
        registry: Registry::new(Box::new(inbox.clone())),
        inbox,
        identity,
        jobs: VecDeque::new(),
        running: None,
        preparing: None,
        requests: VecDeque::new(),
        hinting: None,
        chores: VecDeque::new(),
        scrubbing: None,
        arriving: None,
        ticked: 0,
        wake_at: None,
        attempts: 0,
        links: peers.flat_map(|peer| classes.map(|class| ((peer, class), link()))).collect(),
        stopping: None,
        leads: None,
        ending: false,
        filled_by_snapshot: false,
        _lock: lock,
    };
    Ok((process, Found { hard_state, base, terms, floor }))
}

impl Process {
    /// How this node introduces itself on a new link.
    pub(crate) fn hello(&mut self, node: usize, founding: &Founding, link: LinkClass) -> Hello {
        let (term, last) = self.view.position();
        self.attempts += 1;
        Hello {
            cluster: founding.cluster,
            term,
            last,
            founding: Some(founding.clone()),
            attempt: self.attempts,
            ..bare_hello(&name_of(node), "", self.identity, ids_of(founding), link)
        }
    }
}

/// What a node holds its peers' words against.
pub(crate) fn standing<'a>(name: &'a str, founding: &'a Founding) -> Standing<'a> {
    Standing { id: name, founding }
}
