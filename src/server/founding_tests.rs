//! A small world of nodes that start, ask, store, crash and lose their disks, in every order: there is never more than one cluster, and
//! there always is one when nobody lost anything.

use super::*;

const IDS: [&str; 3] = ["a:1", "b:1", "c:1"];

fn members() -> Vec<String> {
    IDS.iter().map(|id| (*id).to_owned()).collect()
}

/// One node: its disk (uuid and perhaps a record), and, while it runs and is empty, its candidate.
struct Node {
    id: &'static str,
    uuid: u128,
    record: Option<Founding>,
    running: bool,
    candidate: Option<Candidate>,
    last: Option<Step>,
}

struct World {
    nodes: Vec<Node>,
    drawn: u128,
}

impl World {
    fn new() -> World {
        let node = |(at, id): (usize, &&'static str)| Node {
            id,
            uuid: 100 + at as u128,
            record: None,
            running: false,
            candidate: None,
            last: None,
        };
        World { nodes: IDS.iter().enumerate().map(node).collect(), drawn: 0 }
    }

    fn start(&mut self, at: usize) {
        self.drawn += 1;
        let node = &mut self.nodes[at];
        node.running = true;
        let own = FoundingMember { id: node.id.to_owned(), uuid: node.uuid };
        node.candidate = node.record.is_none().then(|| Candidate::new(own, members(), self.drawn));
    }

    fn crash(&mut self, at: usize) {
        self.nodes[at].running = false;
        self.nodes[at].candidate = None;
    }

    fn wipe(&mut self, at: usize) {
        self.crash(at);
        self.nodes[at].record = None;
        self.nodes[at].uuid += 1000;
    }

    /// What a node says to one that asks.
    fn said_by(&self, at: usize) -> Answer {
        let node = &self.nodes[at];
        match (&node.record, node.running) {
            (_, false) => Answer::Silent("connection refused".to_owned()),
            (Some(record), true) => Answer::Member(record.clone()),
            (None, true) => Answer::Empty { uuid: node.uuid, members: members() },
        }
    }

    /// One node asks all others and does what it is told; a record is stored at once.
    fn round(&mut self, at: usize) {
        let answers: Vec<(String, Answer)> =
            (0..3).filter(|other| *other != at).map(|other| (IDS[other].to_owned(), self.said_by(other))).collect();
        let node = &mut self.nodes[at];
        let Some(candidate) = &mut node.candidate else { return };
        for (peer, answer) in answers {
            candidate.answered(&peer, answer);
        }
        let step = candidate.step();
        if let Step::Found(record) | Step::Adopt(record) = &step {
            node.record = Some(record.clone());
            node.candidate = None;
        }
        node.last = Some(step);
    }

    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            (0..3).for_each(|at| self.round(at));
        }
    }

    fn clusters(&self) -> Vec<Option<u128>> {
        self.nodes.iter().map(|node| node.record.as_ref().map(|record| record.cluster)).collect()
    }

    fn assert_one_cluster(&self, story: &str) {
        let mut clusters: Vec<u128> = self.clusters().into_iter().flatten().collect();
        clusters.dedup();
        assert!(clusters.len() <= 1, "{story}: clusters {:?}", self.clusters());
    }
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn every_start_order_founds_one_cluster_of_all() {
    for order in ORDERS {
        let mut world = World::new();
        for at in order {
            world.rounds(3);
            assert_eq!(world.clusters(), [None; 3], "{order:?}: nothing is founded while one is away");
            world.start(at);
        }
        world.rounds(2);
        assert!(world.clusters().iter().all(Option::is_some), "{order:?}: {:?}", world.clusters());
        world.assert_one_cluster(&format!("{order:?}"));
        let record = world.nodes[0].record.clone().expect("just asserted");
        assert_eq!(record.members.iter().map(|member| member.uuid).collect::<Vec<_>>(), [100, 101, 102]);
    }
}

#[test]
fn one_that_waits_names_whom_and_why() {
    let mut world = World::new();
    world.start(1);
    world.round(1);
    let Some(Step::Wait(text)) = &world.nodes[1].last else { panic!("{:?}", world.nodes[1].last) };
    assert!(text.contains("a:1 (connection refused)") && text.contains("c:1 (connection refused)"), "{text}");
    world.start(0);
    world.start(2);
    world.round(1);
    assert_eq!(world.nodes[1].last, Some(Step::Wait("a:1 (it founds the cluster)".to_owned())));
}

#[test]
fn a_crash_between_any_two_steps_only_delays() {
    // Whoever is asked in which order, one node crashes after each single round and comes back at the end.
    for order in ORDERS {
        for crash_after in 0..4 {
            for victim in 0..3 {
                let mut world = World::new();
                (0..3).for_each(|at| world.start(at));
                for (step, at) in order.into_iter().chain([order[0]]).enumerate() {
                    world.round(at);
                    if step == crash_after {
                        world.crash(victim);
                    }
                }
                world.rounds(3);
                world.start(victim);
                world.rounds(3);
                let story = format!("{order:?}, {victim} crashed after {crash_after}");
                assert!(world.clusters().iter().all(Option::is_some), "{story}: {:?}", world.clusters());
                world.assert_one_cluster(&story);
            }
        }
    }
}

#[test]
fn wiped_nodes_learn_that_they_lost_their_disks_and_found_nothing() {
    for wiped in [vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2]] {
        let mut world = World::new();
        (0..3).for_each(|at| world.start(at));
        world.rounds(3);
        let before = world.clusters();
        let survivor = (0..3).find(|at| !wiped.contains(at)).expect("one is never wiped");
        wiped.iter().for_each(|at| world.wipe(*at));
        world.crash(survivor);
        wiped.iter().for_each(|at| world.start(*at));
        world.rounds(3);
        assert!(wiped.iter().all(|at| world.nodes[*at].record.is_none()), "{wiped:?} founded without the survivor");
        world.start(survivor);
        world.rounds(3);
        assert_eq!(world.clusters()[survivor], before[survivor]);
        for at in wiped {
            assert!(matches!(&world.nodes[at].last, Some(Step::LostDisk(_))), "{at}: {:?}", world.nodes[at].last);
            assert_eq!(world.clusters()[at], None);
        }
    }
}

#[test]
fn differing_command_lines_found_nothing_and_name_both() {
    let own = FoundingMember { id: "a:1".to_owned(), uuid: 1 };
    let mut candidate = Candidate::new(own, members(), 9);
    candidate.answered("b:1", Answer::Empty { uuid: 2, members: vec!["a:1".to_owned(), "b:1".to_owned()] });
    candidate.answered("c:1", Answer::Empty { uuid: 3, members: members() });
    let Step::Mismatch(text) = candidate.step() else { panic!("{:?}", candidate.step()) };
    assert!(text.contains("a:1,b:1 ") && text.contains("a:1,b:1,c:1"), "{text}");
    candidate.answered("b:1", Answer::Empty { uuid: 2, members: members() });
    assert!(matches!(candidate.step(), Step::Found(_)), "the cause is gone");
}

#[test]
fn an_answer_counts_only_as_long_as_the_peer_stands_by_it() {
    let own = FoundingMember { id: "a:1".to_owned(), uuid: 1 };
    let mut candidate = Candidate::new(own, members(), 9);
    candidate.answered("b:1", Answer::Empty { uuid: 2, members: members() });
    candidate.answered("b:1", Answer::Silent("connection refused".to_owned()));
    candidate.answered("c:1", Answer::Empty { uuid: 3, members: members() });
    assert!(matches!(candidate.step(), Step::Wait(_)));
}

#[test]
fn a_copied_data_directory_founds_nothing() {
    let own = FoundingMember { id: "a:1".to_owned(), uuid: 1 };
    let mut candidate = Candidate::new(own, members(), 9);
    candidate.answered("b:1", Answer::Empty { uuid: 1, members: members() });
    candidate.answered("c:1", Answer::Empty { uuid: 3, members: members() });
    assert!(matches!(candidate.step(), Step::Mismatch(_)));
}

#[test]
fn records_of_two_clusters_are_not_chosen_from() {
    let own = FoundingMember { id: "a:1".to_owned(), uuid: 1 };
    let mut candidate = Candidate::new(own, members(), 9);
    let record = |cluster| Founding {
        cluster,
        members: IDS.iter().zip(1..).map(|(id, uuid)| FoundingMember { id: (*id).to_owned(), uuid }).collect(),
    };
    candidate.answered("b:1", Answer::Member(record(4)));
    assert_eq!(candidate.step(), Step::Adopt(record(4)));
    candidate.answered("c:1", Answer::Member(record(5)));
    assert!(matches!(candidate.step(), Step::Mismatch(_)));
}

#[test]
fn a_node_alone_founds_a_cluster_of_one() {
    let own = FoundingMember { id: "a:1".to_owned(), uuid: 1 };
    let candidate = Candidate::new(own.clone(), vec!["a:1".to_owned()], 9);
    assert_eq!(candidate.step(), Step::Found(Founding { cluster: 9, members: vec![own] }));
}
