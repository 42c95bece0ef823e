//! Command lines that cannot work are refused with exit code 2 and a sentence that says what would.

use crate::program::run;

#[track_caller]
fn refused(arguments: &[&str], expected: &str) {
    let output = run(arguments).expect_code(2);
    assert!(output.contains(expected), "{arguments:?}: {expected:?} is missing in:\n{output}");
}

#[test]
fn values_out_of_range_are_refused() {
    refused(&["--endpoints", "localhost"], "host:port");
    refused(&["--duration", "30"], "unit");
    refused(&["--duration", "0s"], "longer than zero");
    refused(&["--writers", "0"], "1..=");
    refused(&["--keys", "0"], "1..=");
    refused(&["--rate", "0"], "writes a second");
    refused(&["--rate", "NaN"], "writes a second");
    refused(&["run", "--nodes", "0"], "1..=");
    refused(&["run", "--seed", "x"], "--seed");
    refused(&["cluster", "--base-port", "65000"], "--base-port");
    refused(&["cluster", "--nodes", "10"], "1..=");
}

#[test]
fn faults_that_cannot_be_made_are_refused_with_those_that_can() {
    refused(&["run", "--faults", "explode"], "kill, pause, partition, one-way, bridge, slow, break, and all");
    refused(&["run", "--faults", "kill,"], "kill, pause, partition");
    refused(&["run", "--faults", "bridge", "--nodes", "2"], "--faults bridge takes at least 3 nodes");
    refused(&["run", "--faults", "kill,partition", "--nodes", "1"], "--faults partition takes at least 2 nodes");
}

#[test]
fn nothing_is_broken_in_a_cluster_of_somebody_else() {
    for breaking in [&["--faults", "kill"][..], &["--nodes", "3"], &["--keep", "x"], &["--scratch-in", "x"]] {
        let arguments = [&["run", "--endpoints", "localhost:1"], breaking].concat();
        refused(&arguments, "cannot be used with");
    }
}

#[test]
fn files_that_cannot_be_written_are_named_before_anything_is_started() {
    for flag in ["--report", "--history"] {
        let output = run(&["run", "--server", "/bin/false", flag, "/nonexistent/file"]).expect_code(7);
        assert!(output.contains("cannot write /nonexistent/file") && !output.contains("Seed"), "{output}");
        let output = run(&["--endpoints", "localhost:1", flag, "/nonexistent/file"]).expect_code(7);
        assert!(output.contains("cannot write /nonexistent/file"), "{output}");
    }
}

#[test]
fn unknown_flags_and_commands_are_refused() {
    refused(&["--nonsense"], "--nonsense");
    refused(&["explode"], "explode");
    refused(&["--keep", "run"], "cannot be used");
    refused(&["with-cluster"], "COMMAND");
}

#[test]
fn a_missing_server_binary_is_named_with_the_remedy() {
    for command in [&["run"][..], &["cluster"], &["demo"], &["failover"], &["with-cluster", "--", "true"]] {
        let (name, rest) = command.split_at(1);
        let arguments = [name, &["--server", "/nonexistent/apexkv"], rest].concat();
        refused(&arguments, "no server binary at /nonexistent/apexkv: build it with `make build`");
    }
}

#[test]
fn a_demo_that_could_not_survive_is_refused() {
    refused(&["demo", "--nodes", "2"], "at least 3");
    refused(&["failover", "--nodes", "2"], "at least 3");
    refused(&["failover", "--how", "shout"], "kill, pause");
}

#[test]
fn a_folder_that_is_in_use_is_not_taken_as_scratch() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("precious"), "data").expect("a file");
    let path = folder.path().to_str().expect("temporary folders have plain names");
    refused(&["run", "--server", "/bin/true", "--keep", path], "not empty");
    assert!(folder.path().join("precious").exists());
}
