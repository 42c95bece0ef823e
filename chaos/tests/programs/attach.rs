//! The load on a running cluster, and its verdict.

use crate::fake::Fake;
use crate::program::{Program, eventually, run};

#[test]
fn a_cluster_that_keeps_everything_gets_a_good_verdict_and_its_keys_removed() {
    let fake = Fake::start(3);
    let output = run(&["--endpoints", &fake.endpoints(), "--duration", "1s", "--keys", "20", "--writers", "3"]).expect_code(0);
    for expected in ["Set user_", " = data_", "Latency   p50", "Read back 20 keys", "lost = 0"] {
        assert!(output.contains(expected), "{expected:?} is missing in:\n{output}");
    }
    assert_eq!(fake.keys(), [""; 0]);
}

#[test]
fn keys_are_kept_on_request_and_carry_the_prefix_of_the_run() {
    let fake = Fake::start(1);
    let output = run(&["--endpoints", &fake.endpoints(), "--duration", "300ms", "--keys", "5", "--keep"]).expect_code(0);
    let keys = fake.keys();
    assert!(!keys.is_empty() && keys.len() <= 5, "{keys:?}");
    let prefix = keys[0].rsplit_once("-user_").expect("the form of a key").0;
    assert!(prefix.starts_with("chaos-") && output.contains(&format!("The keys {prefix}-* stay")), "{output}");
}

#[test]
fn lost_writes_are_found() {
    let fake = Fake::start(3);
    fake.forget_every(5);
    let output = run(&["--endpoints", &fake.endpoints(), "--duration", "500ms", "--keys", "10"]).expect_code(1);
    assert!(output.contains("VIOLATED") && output.contains("LOST"), "{output}");
}

#[test]
fn stale_reads_are_found() {
    let fake = Fake::start(1);
    fake.make_reads_stale();
    let output = run(&["--endpoints", &fake.endpoints(), "--duration", "500ms", "--keys", "3"]).expect_code(1);
    assert!(output.contains("VIOLATION user_") && output.contains("stale"), "{output}");
}

#[test]
fn answers_that_never_arrive_are_unknown_and_no_violation() {
    let fake = Fake::start(3);
    fake.cut_every(7);
    let output = run(&["--endpoints", &fake.endpoints(), "--duration", "1s", "--keys", "10", "--writers", "2"]).expect_code(0);
    let unknown = output.split_once(" acknowledged, ").and_then(|(_, rest)| rest.split_once(" unknown")).expect("the numbers").0;
    assert_ne!(unknown, "0", "{output}");
}

#[test]
fn an_outage_is_said_once_and_its_end_with_the_new_leader() {
    let fake = Fake::start(3);
    let mut program = Program::start(&["--endpoints", &fake.endpoints(), "--keys", "10", "--writers", "3"]);
    program.wait_for("Set user_");
    fake.set_leader(None);
    program.wait_for("Cluster Down! Retrying...");
    fake.set_leader(Some(2));
    let found = program.wait_for("Leader found again via ");
    let port = fake.address(2).rsplit_once(':').expect("host:port").1;
    assert!(found.contains(&format!("via :{port} after ")), "{found}");
    program.signal("INT");
    let output = program.wait().expect_code(0);
    assert_eq!(output.matches("Cluster Down!").count(), 1, "{output}");
    assert!(output.contains("Failovers 1, outages 1") && output.contains("lost = 0"), "{output}");
}

#[test]
fn the_first_ctrl_c_ends_with_the_verdict() {
    let fake = Fake::start(1);
    let mut program = Program::start(&["--endpoints", &fake.endpoints(), "--rate", "200"]);
    program.wait_for("Set user_");
    program.signal("INT");
    let output = program.wait().expect_code(0);
    assert!(output.contains("lost = 0"), "{output}");
}

#[test]
fn the_second_ctrl_c_ends_at_once() {
    let fake = Fake::start(1);
    let mut program = Program::start(&["--endpoints", &fake.endpoints(), "--patience", "10m"]);
    program.wait_for("Set user_");
    // Without a leader, reading back goes on until the patience is over.
    fake.set_leader(None);
    program.signal("INT");
    eventually("the writers have stopped", || {
        let before = fake.writes();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fake.writes() == before
    });
    program.signal("INT");
    program.wait().expect_code(130);
}

#[test]
fn a_cluster_that_is_not_there_is_said_with_the_remedy() {
    let output = run(&["--endpoints", "127.0.0.1:1", "--attempt-timeout", "100ms", "--patience", "300ms"]).expect_code(4);
    assert!(output.contains("127.0.0.1:1") && output.contains("make cluster"), "{output}");
}

#[test]
fn a_cluster_that_goes_away_for_good_leaves_the_verdict_open() {
    let fake = Fake::start(1);
    let mut program = Program::start(&["--endpoints", &fake.endpoints(), "--patience", "300ms"]);
    program.wait_for("Set user_");
    fake.set_leader(None);
    program.wait_for("Cluster Down!");
    program.signal("INT");
    let output = program.wait().expect_code(4);
    assert!(output.contains("UNPROVED") && output.contains("still down"), "{output}");
}

#[test]
fn the_rate_is_kept() {
    let fake = Fake::start(1);
    run(&["--endpoints", &fake.endpoints(), "--duration", "1s", "--rate", "50", "--writers", "2"]).expect_code(0);
    let writes = fake.writes();
    assert!((20..=60).contains(&writes), "{writes} writes in a second at 50 a second");
}

#[test]
fn mixed_operations_are_recorded_and_found_linearizable() {
    let fake = Fake::start(3);
    fake.cut_every(20);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("history").display().to_string();
    let flags = ["--endpoints", &fake.endpoints(), "--duration", "1s", "--mixed", "4", "--history", &path];
    let output = run(&flags).expect_code(0);
    assert!(output.contains(" by 4 clients on ") && output.contains(": linearizable"), "{output}");
    assert_eq!(fake.keys(), [""; 0], "the shared keys are removed, too");
    let history = std::fs::read_to_string(&path).expect("it was written");
    for call in ["SET", "GET", "DEL", "CAS"] {
        assert!(history.contains(&format!(r#""call":"{call}""#)), "no {call} among {} operations", history.lines().count());
    }
}

#[test]
fn answers_that_contradict_each_other_are_shown() {
    let fake = Fake::start(1);
    fake.make_reads_stale();
    let output =
        run(&["--endpoints", &fake.endpoints(), "--duration", "500ms", "--mixed", "2", "--keys", "1", "--rate", "1"]).expect_code(1);
    assert!(output.contains("NOT LINEARIZABLE") && output.contains("these cannot all be true"), "{output}");
    assert!(output.contains("-> written as version "), "{output}");
}

#[test]
fn a_run_on_a_cluster_of_somebody_else_breaks_nothing_and_reports_the_same() {
    let fake = Fake::start(3);
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("report.html").display().to_string();
    let output =
        run(&["run", "--endpoints", &fake.endpoints(), "--duration", "1s", "--attempt-timeout", "30s", "--report", &path]).expect_code(0);
    for expected in ["Timeline  0 s", "11111111", "Available 100 % of the time", " by 4 clients on ", ": linearizable", "lost = 0"] {
        assert!(output.contains(expected), "{expected:?} is missing in:\n{output}");
    }
    let mut lines = output.lines().filter(|line| !line.starts_with("Report "));
    assert!(lines.all(|line| line.chars().count() <= 80), "{output}");
    assert!(!output.contains('\x1b'), "colours although this is no terminal: {output}");
    let page = std::fs::read_to_string(&path).expect("it was written");
    for expected in
        ["<!DOCTYPE html>", "<svg ", "class=\"bar\"", "lost = 0", "100 % of the time", "Nothing was broken on purpose", fake.address(0)]
    {
        assert!(page.contains(expected), "{expected:?} is missing in:\n{page}");
    }
    assert_eq!(fake.keys(), [""; 0], "nothing is left behind");
}

#[test]
fn a_violation_is_in_the_report_with_its_smallest_bad_piece() {
    let fake = Fake::start(1);
    fake.make_reads_stale();
    let folder = tempfile::tempdir().expect("a scratch folder");
    let path = folder.path().join("report.html").display().to_string();
    run(&["run", "--endpoints", &fake.endpoints(), "--duration", "500ms", "--report", &path]).expect_code(1);
    let page = std::fs::read_to_string(&path).expect("it was written");
    for expected in ["class=\"verdict bad\"", "VIOLATED", "NOT LINEARIZABLE", "these cannot all be true", "-&gt; written as version "] {
        assert!(page.contains(expected), "{expected:?} is missing in:\n{page}");
    }
}

#[test]
fn an_outage_is_in_the_timeline_and_in_the_availability() {
    let fake = Fake::start(3);
    let mut program = Program::start(&["--endpoints", &fake.endpoints(), "--writers", "3"]);
    program.wait_for("Set user_");
    fake.set_leader(None);
    program.wait_for("Cluster Down!");
    std::thread::sleep(std::time::Duration::from_millis(300));
    fake.set_leader(Some(2));
    program.wait_for("Leader found again");
    program.signal("INT");
    let output = program.wait().expect_code(0);
    let line = |name: &str| output.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in:\n{output}"));
    assert!(line("leader ").contains('1') && line("leader ").contains('3'), "{output}");
    assert!(line("outages ").contains('!'), "{output}");
    assert!(!line("Available ").contains(" 100 %"), "{output}");
}
