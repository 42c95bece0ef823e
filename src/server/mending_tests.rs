//! The corruption matrix of Protocol-Aware Recovery on the code that runs: four entries, three nodes, each copy of each entry whole or not.
//! Where at least one copy of each is left, all nodes come back with everything; where none is, all refuse. The logs are real ones on
//! simulated disks, the questions and decisions those of a server; only the connections are left out.

use super::*;
use crate::raft::{EntryId, HardState, Node, Settings};
use crate::server::event::{Event, MendQuestion};
use crate::server::mailbox::bounded;
use crate::server::mend_link::said;
use crate::server::recovered::recovered;
use crate::server::replica::{Limits, Replica};
use crate::server::shared::OnDamage;
use crate::storage::Options;
use crate::storage::directory::{Directory, FoundingMember};
use crate::storage::log::Log;
use crate::storage::record::{self, Operation};
use crate::storage::simulated::{DiskImage, SimulatedDisk};
use crate::storage::writer::{Completion, Job, LogWriter};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const OPTIONS: Options = Options { segment_bytes: 8 << 10, reserve_bytes: 0 };
const CLUSTER: u128 = 0xC1;

fn id_of(site: usize) -> String {
    format!("node:{site}")
}

/// A log that was written and closed, and where each record stands: file and offset.
struct Written {
    image: DiskImage,
    places: Vec<(String, u64)>,
}

fn records(terms: &[u64]) -> Vec<Vec<u8>> {
    let record = |(term, index): (&u64, u64)| {
        let mut bytes = Vec::new();
        let value = vec![index as u8; 40 + 10 * index as usize];
        record::encode_operation(&mut bytes, &Operation::Set { key: &[index as u8], value: &value });
        record::seal(&mut bytes, EntryId { term: *term, index });
        bytes
    };
    terms.iter().zip(1..).map(record).collect()
}

/// Writes these records on the disk of one node of `sites`, `together` of them in a batch.
fn write(site: usize, sites: usize, records: &[Vec<u8>], together: usize) -> Written {
    write_committed(site, sites, records, together, 0)
}

/// The same, as a node that knows entries up to `commit` to be committed when the last ones are written.
fn write_committed(site: usize, sites: usize, records: &[Vec<u8>], together: usize, commit: u64) -> Written {
    let device = SimulatedDisk::new(site as u64);
    let mut directory = Directory::open(device.boot(), &id_of(site)).expect("the disk is sound");
    let uuid = |other| if other == site { directory.identity().uuid } else { 1 + other as u128 };
    let members = (0..sites).map(|other| FoundingMember { id: id_of(other), uuid: uuid(other) }).collect();
    directory.found(&Founding { cluster: CLUSTER, members }).expect("the disk is sound");
    let opened = directory.open_log(&OPTIONS).expect("the disk is sound");
    let (mut log, mut workers) = (opened.log, opened.workers);
    let state = HardState { term: 9, vote: None };
    workers.writer.run(Job::HardState { ticket: 1, state }).expect("the disk is sound");
    let mut places = Vec::new();
    for batch in records.chunks(together) {
        let bytes = batch.concat();
        if log.room(bytes.len()) != crate::storage::log::Room::Yes {
            let segment = workers.preparer.prepare(0).expect("the disk is sound");
            let Completion::Listed(segment) = workers.writer.run(Job::List(segment)).expect("the disk is sound") else { panic!("listed") };
            log.add_prepared(segment);
        }
        let locations = log.append(bytes);
        places.extend(locations.iter().map(|location| (format!("{:08x}.log", location.segment), u64::from(location.offset))));
        flush(&mut log, &mut workers.writer, commit);
    }
    log.close_when_idle();
    flush(&mut log, &mut workers.writer, commit);
    drop((log, workers, opened.lock));
    device.kill();
    Written { image: device.snapshot(), places }
}

fn flush(log: &mut Log, writer: &mut LogWriter, commit: u64) {
    log.freeze();
    while let Some((job, _)) = log.next_job(commit) {
        let completion = writer.run(job).expect("the disk is sound");
        log.completed(&completion);
    }
}

fn no_damage() -> OnDamage {
    Arc::new(|error| panic!("what a node that runs gives is whole: {error}"))
}

enum State {
    Damaged(Shelf, Inquiry),
    Running(Box<Replica<()>>),
    Refused(Shelf, u64),
}

/// A node after its start.
struct Site {
    state: State,
    put_aside: bool,
}

fn run(opened: Opened) -> State {
    let recovered = recovered(&opened.founding, opened.hard_state, &opened.log, opened.commit);
    let mut node = Node::new(opened.node, Settings::usual(), 1, recovered);
    node.set_floor(opened.floor);
    State::Running(Box::new(Replica::new(node, opened.log, opened.applier, Limits::default())))
}

impl Site {
    fn start(site: usize, sites: usize, device: &SimulatedDisk) -> Site {
        let directory = Directory::open(device.boot(), &id_of(site)).expect("the directory is whole");
        let others: Vec<(NodeId, String)> =
            (0..sites).filter(|other| *other != site).map(|other| (NodeId(other as u32 + 1), id_of(other))).collect();
        let state = match directory.try_open_log(&OPTIONS).expect("the disk is sound") {
            Attempt::Opened(opened) => run(*opened),
            Attempt::Damaged(damaged) => State::Damaged(Mutex::new(Some(damaged)), Inquiry::new(&others)),
        };
        Site { state, put_aside: false }
    }

    fn answer(&mut self, question: &Said) -> Said {
        let wanted = if let Said::Want(wanted) = question { Some(wanted.clone()) } else { None };
        match &mut self.state {
            // One that gives up answers until the others know.
            State::Damaged(shelf, _) | State::Refused(shelf, _) => {
                with(shelf, |damaged| respond(damaged, wanted)).expect("there").expect("read")
            }
            State::Running(replica) => {
                let (sender, answers) = bounded(1);
                replica.handle(Event::Mend(MendQuestion { wanted: wanted.clone(), answer: sender }));
                let answer = answers.try_recv().expect("answered at once");
                match (wanted, answer.holding) {
                    (Some(wanted), Some(holding)) => said(wanted.first, holding, &no_damage()).expect("read").expect("whole"),
                    _ => Said::Standing(answer.standing),
                }
            }
        }
    }

    /// What the log holds, record by record.
    fn records(&mut self) -> Vec<u8> {
        let State::Running(replica) = &mut self.state else { panic!("it runs") };
        let last = replica.node().last();
        let terms: Vec<u64> = (1..=last.index).filter_map(|index| replica.node().outline().term_of(index)).collect();
        let mut all = Vec::new();
        for (index, term) in (1..).zip(terms) {
            match self.answer(&Said::Want(Wanted { first: index, last: index, terms: vec![term], commit: 0 })) {
                Said::Records { records, .. } => all.extend(records),
                other => panic!("entry {index}: {other:?}"),
            }
        }
        all
    }
}

/// One round of questions of one node, and what it does then. True if something has changed.
fn act(sites: &mut [Site], asking: usize) -> bool {
    let State::Damaged(shelf, mut inquiry) = std::mem::replace(&mut sites[asking].state, State::Refused(Mutex::new(None), 0)) else {
        panic!("it is damaged")
    };
    inquiry.begin();
    for other in (0..sites.len()).filter(|other| *other != asking) {
        let heard = inquire(NodeId(other as u32 + 1), &shelf, &mut inquiry, &mut |question| Ok(sites[other].answer(question)));
        heard.expect("the disk is sound").expect("it answers well");
    }
    let step = with(&shelf, |damaged| inquiry.step(damaged.last(), &wanted_of(damaged), damaged.is_complete())).expect("there");
    let taken = || shelf.lock().take().expect("there");
    let state = match step {
        Step::Mend => match taken().mend().expect("the disk is sound") {
            Attempt::Opened(opened) => run(*opened),
            Attempt::Damaged(again) => panic!("mended and damaged again: {}", again.cause()),
        },
        Step::PutAside => {
            sites[asking].put_aside = true;
            run(taken().put_aside().expect("the disk is sound"))
        }
        Step::Refuse { index } => State::Refused(shelf, index),
        Step::Wait(_) => {
            sites[asking].state = State::Damaged(shelf, inquiry);
            return false;
        }
    };
    sites[asking].state = state;
    true
}

/// Lets all nodes ask until nothing changes any more.
fn settle_all(sites: &mut [Site]) {
    let mut changed = true;
    while changed {
        changed = false;
        for asking in 0..sites.len() {
            if matches!(sites[asking].state, State::Damaged(..)) {
                changed |= act(sites, asking);
            }
        }
    }
}

/// Spoils one copy of an entry: a byte of its value or of its header, all of it, or its batch's header as well.
fn spoil(device: &SimulatedDisk, (file, offset): &(String, u64), bytes: usize, how: u32) {
    let noise = vec![0xA5; bytes];
    let spoilt = match how {
        0 => device.rot(file, offset + bytes as u64 - 1, 0x40),
        1 => device.rot(file, offset + 9, 0x01),
        2 => device.overwrite(file, *offset, &noise),
        _ => device.overwrite(file, offset - 96, &[&[0x5A; 96], &noise[..]].concat()),
    };
    spoilt.expect("the file is there");
}

#[test]
fn of_4096_ways_to_lose_copies_of_four_entries_2401_recover_and_1695_refuse() {
    let seed: u64 = std::env::var("APEXKV_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    eprintln!("APEXKV_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let records = records(&[1, 1, 2, 4]);
    let all = records.concat();
    let written: Vec<Written> = (0..3).map(|site| write(site, 3, &records, 1)).collect();
    let (mut recovered, mut refused) = (0, 0);
    for mask in 0..1_u32 << 12 {
        let mut sites: Vec<Site> = Vec::new();
        for (site, written) in written.iter().enumerate() {
            let device = SimulatedDisk::new(u64::from(mask));
            device.restore(written.image.clone());
            for entry in (0..4).filter(|entry| mask & 1 << (4 * site + entry) != 0) {
                spoil(&device, &written.places[entry], records[entry].len(), random.random_range(0..4));
            }
            sites.push(Site::start(site, 3, &device));
        }
        let lost = (0..4).find(|entry| (0..3).all(|site| mask & 1 << (4 * site + entry) != 0));
        settle_all(&mut sites);
        for (number, site) in sites.iter_mut().enumerate() {
            let what = format!("APEXKV_SEED={seed}, mask {mask:012b}, node {number}");
            assert!(!site.put_aside, "{what}: put aside");
            match (&site.state, lost) {
                (State::Running(_), None) => assert!(site.records() == all, "{what}: other records"),
                (State::Refused(_, index), Some(entry)) => assert_eq!(*index, entry as u64 + 1, "{what}"),
                (State::Running(_), Some(entry)) => panic!("{what}: runs without entry {}", entry + 1),
                (State::Refused(_, index), None) => panic!("{what}: refuses for entry {index}, which is there"),
                (State::Damaged(..), _) => panic!("{what}: waits for ever"),
            }
        }
        if lost.is_none() { recovered += 1 } else { refused += 1 }
    }
    assert_eq!((recovered, refused), (2401, 1695));
}

/// Logs that ended differently before the damage: the last entries stand on some nodes only, and never on a majority.
#[test]
fn what_was_never_committed_is_mended_or_put_aside_and_stops_nobody() {
    let seed: u64 = std::env::var("APEXKV_SEED").map_or_else(|_| rand::random(), |text| text.parse().expect("a number"));
    eprintln!("APEXKV_SEED={seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    for round in 0..400 {
        let (count, together) = ([2, 3, 5][random.random_range(0..3)], random.random_range(1..3));
        // Where damaged logs end differently and not enough others are whole, nothing but what is known to be committed can prove what
        // stands in front of the ends: without that, they wait.
        let commit = if count == 2 || random.random_bool(0.5) { 4 } else { 0 };
        let whole_from = if commit > 0 { count } else { count - count / 2 };
        let mut sites = Vec::new();
        let mut logs = Vec::new();
        let mut spoilt = [0; 4];
        for site in 0..count {
            // A minority has entries of later terms that no majority ever had.
            let more: &[u64] = if site < count / 2 { [&[][..], &[4, 5], &[6]][random.random_range(0..3)] } else { &[] };
            let records = records(&[&[1, 1, 2, 4], more].concat());
            let written = write_committed(site, count, &records, together, commit);
            let device = SimulatedDisk::new(seed.wrapping_add(round));
            device.restore(written.image.clone());
            for (entry, place) in written.places.iter().enumerate() {
                if random.random_bool(0.3) && site < whole_from && (entry >= 4 || spoilt[entry] + 1 < count) {
                    // Nobody can give what stands behind a damaged header in the same batch.
                    spoil(&device, place, records[entry].len(), if together == 1 { random.random_range(0..4) } else { 0 });
                    if let Some(copies) = spoilt.get_mut(entry) {
                        *copies += 1;
                    }
                }
            }
            logs.push(records.concat());
            sites.push(Site::start(site, count, &device));
        }
        settle_all(&mut sites);
        for (number, site) in sites.iter_mut().enumerate() {
            let what = format!("APEXKV_SEED={seed}, round {round}, node {number} of {count}");
            assert!(matches!(site.state, State::Running(_)), "{what}: it waits or refuses");
            // Put aside it has nothing, mended it has what it had.
            let expected = if site.put_aside { &[][..] } else { &logs[number][..] };
            assert!(site.records() == expected, "{what}: other records");
        }
        let whole = sites.iter().filter(|site| matches!(site.state, State::Running(_)) && !site.put_aside).count();
        let aside = sites.iter().filter(|site| site.put_aside).count();
        assert!(aside == 0 || whole >= count / 2, "APEXKV_SEED={seed}, round {round}: {aside} put aside, {whole} whole");
    }
}

#[test]
fn a_node_that_is_filled_again_does_not_pass_for_one_that_never_had_an_entry() {
    let written = write(0, 3, &records(&[1, 1]), 1);
    let device = SimulatedDisk::new(7);
    device.restore(written.image.clone());
    device.rot(&written.places[0].0, written.places[0].1 + 40, 1).expect("there");
    let directory = Directory::open(device.boot(), &id_of(0)).expect("whole");
    let opened = directory.open_log(&OPTIONS).expect("put aside at once");
    assert_eq!(opened.floor, EntryId { term: 1, index: 2 });
    let mut site = Site { state: run(opened), put_aside: true };
    let wanted = Wanted { first: 2, last: 2, terms: vec![1], commit: 0 };
    let missing = Said::Missing { through: 2, why: crate::storage::mend::Missing::Damaged };
    assert_eq!(site.answer(&Said::Want(wanted)), missing);
    let Said::Standing(standing) = site.answer(&Said::Look) else { panic!("a standing") };
    assert!(standing.running && !standing.whole && standing.last == EntryId { term: 1, index: 2 });
}

/// Two nodes have led for a moment each and lost the entries before that; the third has those, and no entry of either term.
fn divided(commit: u64) -> Vec<(Site, Vec<u8>)> {
    let terms: [&[u64]; 3] = [&[1, 1, 2, 2, 3], &[1, 1, 2, 2, 4], &[1, 1, 2, 2]];
    let site = |(site, terms): (usize, &[u64])| {
        let records = records(terms);
        let written = write_committed(site, 3, &records, 1, commit);
        let device = SimulatedDisk::new(site as u64);
        device.restore(written.image.clone());
        for entry in (2..4).filter(|_| site < 2) {
            spoil(&device, &written.places[entry], records[entry].len(), 3);
        }
        (Site::start(site, 3, &device), records.concat())
    };
    terms.into_iter().enumerate().map(site).collect()
}

#[test]
fn what_is_known_to_be_committed_is_the_same_everywhere_whatever_follows_it() {
    let (mut sites, logs): (Vec<Site>, Vec<Vec<u8>>) = divided(4).into_iter().unzip();
    settle_all(&mut sites);
    for (number, (site, log)) in sites.iter_mut().zip(logs).enumerate() {
        assert!(!site.put_aside && site.records() == log, "node {number}");
    }
}

#[test]
fn as_long_as_somebody_may_do_without_an_entry_nobody_gives_up_for_it() {
    let (mut sites, _): (Vec<Site>, Vec<Vec<u8>>) = divided(0).into_iter().unzip();
    settle_all(&mut sites);
    for (number, site) in sites.iter().enumerate() {
        let waits = matches!(site.state, State::Damaged(..));
        assert!(waits == (number < 2) && !site.put_aside, "node {number}");
    }
}

#[test]
fn a_node_that_knows_of_damage_does_not_pass_for_whole() {
    let written = write(0, 3, &records(&[1, 1]), 1);
    let device = SimulatedDisk::new(7);
    device.restore(written.image);
    let mut site = Site::start(0, 3, &device);
    let last = EntryId { term: 1, index: 2 };
    assert_eq!(site.answer(&Said::Look), Said::Standing(mend::Standing { running: true, whole: true, last }));
    let State::Running(replica) = &mut site.state else { panic!("nothing is damaged") };
    replica.handle(Event::Damaged("some file".to_owned()));
    assert_eq!(site.answer(&Said::Look), Said::Standing(mend::Standing { running: true, whole: false, last }));
}

#[test]
fn records_that_cannot_be_the_lost_ones_are_no_reason_to_give_up_or_to_stop_asking() {
    let terms = records(&[1, 1, 2, 4]);
    let written = write(0, 3, &terms, 1);
    let device = SimulatedDisk::new(7);
    device.restore(written.image);
    spoil(&device, &written.places[1], terms[1].len(), 0);
    spoil(&device, &written.places[3], terms[3].len(), 0);
    let site = Site::start(0, 3, &device);
    let State::Damaged(shelf, mut inquiry) = site.state else { panic!("it is damaged") };
    let last = EntryId { term: 4, index: 4 };
    let hear = |wrong: bool, whole: bool, peer: u32, inquiry: &mut Inquiry| {
        let mut answer = |question: &Said| match question {
            Said::Want(Wanted { first: 2, .. }) if wrong => Ok(Said::Records { first: 2, records: terms[3].clone() }),
            Said::Want(Wanted { first, last, .. }) if !whole => Ok(Said::Missing { through: *last.min(first), why: Missing::Damaged }),
            Said::Want(Wanted { first, last, .. }) => Ok(Said::Missing { through: *last.max(first), why: Missing::Compacted }),
            _ => Ok(Said::Standing(mend::Standing { running: whole, whole, last })),
        };
        inquire(NodeId(peer), &shelf, inquiry, &mut answer).expect("the disk is sound")
    };
    assert!(hear(true, false, 2, &mut inquiry).is_err_and(|reason| reason.contains("entry 2 is wanted")));
    hear(false, false, 3, &mut inquiry).expect("it answers well");
    let wanted = with(&shelf, wanted_of).expect("there");
    assert_eq!(wanted.len(), 2);
    assert!(matches!(inquiry.step(Some(last), &wanted[..1], false), Step::Wait(_)), "one of the others may have entry 2");
    assert_eq!(inquiry.step(Some(last), &wanted, false), Step::Refuse { index: 4 });
    assert!(hear(true, true, 2, &mut inquiry).is_err());
    assert_eq!(inquiry.step(Some(last), &wanted, false), Step::PutAside, "it is asked for everything, and whole");
}
