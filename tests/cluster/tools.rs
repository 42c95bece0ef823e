//! `apexkv check` and `apexkv dump` as people run them: what they print, how they end, and that they leave everything as it is.

use crate::harness::Cluster;
use crate::node::{Node, PATIENCE};
use crate::startup::{flip_byte, set_mode, stopped_with_values};
use rustix::process::geteuid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

fn tool(arguments: &[&str], dir: &Path) -> Ended {
    run(Command::new(env!("CARGO_BIN_EXE_apexkv")).args(arguments).arg(dir))
}

fn run(command: &mut Command) -> Ended {
    // No flag of the server may matter to a tool, however wrong.
    let command = command.env_clear().env("APEXKV_REQUEST_TIMEOUT", "wrong").env("APEXKV_ID", "wrong").stdin(Stdio::null());
    let output = command.output().expect("the binary can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// Every file with its content and the time of its last change.
fn content(dir: &Path) -> BTreeMap<String, (Vec<u8>, std::time::SystemTime)> {
    let entries = std::fs::read_dir(dir).expect("the directory is ours").map(|entry| entry.expect("the directory is ours").path());
    let state = |path: &Path| {
        let modified = path.metadata().and_then(|metadata| metadata.modified()).expect("the file is ours");
        (std::fs::read(path).expect("the file is ours"), modified)
    };
    entries.map(|path| (path.display().to_string(), state(&path))).collect()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn what_was_written_is_dumped_and_the_directory_stays_as_it_is() {
    let mut cluster = Cluster::started(1);
    let mut client = cluster.client(PATIENCE);
    let odd: &[u8] = b"tab\tbackslash\\line\n\x1b[31m";
    let long = "é".repeat(300_000);
    let pairs: [(&[u8], &[u8]); 5] = [(b"a", b""), (b"b", b"\xff\xfe\xfd"), (b"c", long.as_bytes()), (b"\xc3", b"latin"), (odd, odd)];
    let mut versions: Vec<u64> = pairs.iter().map(|(key, value)| client.set(key, value).expect("the node works")).collect();
    versions[0] = client.compare_and_set(b"a", versions[0], b"").expect("nobody else writes");
    client.set(b"gone", b"x").expect("the node works");
    client.delete(b"gone").expect("the node works");
    cluster.stop_all();
    let dir = cluster.nodes[0].data.clone();
    let before = content(&dir);

    let checked = tool(&["check"], &dir);
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.err);
    assert!(checked.out.contains(&cluster.nodes[0].id) && checked.out.contains("keys      5\n"), "{}", checked.out);
    assert!(checked.out.ends_with("OK        a start would work\n") && checked.err.is_empty(), "{}{}", checked.out, checked.err);
    let summary = &json_lines(&tool(&["check", "-o", "json"], &dir).out)[0];
    assert_eq!((&summary["ok"], &summary["keys"], &summary["entries"]), (&true.into(), &5.into(), &9.into()), "{summary}");

    let dumped = tool(&["dump", "-o", "json"], &dir);
    assert_eq!((dumped.code, dumped.err.as_str()), (Some(0), ""));
    let keys = json_lines(&dumped.out);
    let expected = [
        serde_json::json!({"key": "a", "version": versions[0], "value": ""}),
        serde_json::json!({"key": "b", "version": versions[1], "value_base64": "//79"}),
        serde_json::json!({"key": "c", "version": versions[2], "value": long}),
        serde_json::json!({"key": String::from_utf8_lossy(odd), "version": versions[4], "value": String::from_utf8_lossy(odd)}),
        serde_json::json!({"key_base64": "ww==", "version": versions[3], "value": "latin"}),
    ];
    assert!(keys == expected, "{}", dumped.out);
    let text = tool(&["dump", "--keys"], &dir).out;
    let escaped = "tab\\tbackslash\\\\line\\n\\x1b[31m";
    assert!(text.starts_with(&format!("a\t{}\t\nb\t{}\t\\xff\\xfe\\xfd\nc\t", versions[0], versions[1])), "{text}");
    assert!(text.ends_with(&format!("\n{escaped}\t{}\t{escaped}\n\\xc3\t{}\tlatin\n", versions[4], versions[3])), "{text}");

    let log = json_lines(&tool(&["dump", "--log", "--output", "json"], &dir).out);
    let operations: Vec<&str> = log.iter().map(|entry| entry["operation"].as_str().unwrap_or("-")).collect();
    assert_eq!(operations, ["-", "set", "set", "set", "set", "set", "cas", "set", "del"]);
    assert_eq!((&log[6]["expected"], &log[3]["value_bytes"]), (&2.into(), &600_000.into()));
    assert_eq!(log[3]["value_preview"], "é".repeat(16));
    for (index, entry) in (1..).zip(&log) {
        assert_eq!((&entry["index"], &entry["committed"]), (&index.into(), &true.into()), "{entry}");
        let file = std::fs::File::open(dir.join(entry["file"].as_str().expect("a name"))).expect("it is there");
        let mut stored = [0; 8];
        file.read_exact_at(&mut stored, entry["offset"].as_u64().expect("an offset") + 8).expect("it is that long");
        assert_eq!(u64::from_le_bytes(stored), index, "the record stands there: {entry}");
    }
    assert_eq!(tool(&["dump", "--log"], &dir).out.lines().count(), log.len());
    assert!(content(&dir) == before, "nothing was changed, not even the lock's file");
    cluster.start_all();
}

#[test]
fn a_running_node_is_left_alone() {
    let cluster = Cluster::started(1);
    let node = &cluster.nodes[0];
    for arguments in [&["check"][..], &["dump", "--log"]] {
        let refused = tool(arguments, &node.data);
        let pid = node.pid().as_raw_nonzero().to_string();
        assert_eq!((refused.code, refused.out.as_str()), (Some(7), ""));
        assert!(refused.err.contains("running node") && refused.err.contains(&pid) && refused.err.lines().count() == 1, "{}", refused.err);
    }
    cluster.client(PATIENCE).set(b"key", b"value").expect("the node works");
}

#[test]
fn damage_is_named_with_file_and_offset_and_an_interrupted_write_is_none() {
    let mut cluster = stopped_with_values();
    let node = &mut cluster.nodes[0];
    let segment = node.segments().into_iter().next().expect("a log");
    let name = segment.file_name().expect("it has a name").to_string_lossy().into_owned();
    let bytes = std::fs::read(&segment).expect("the file is ours");
    let at = |number| bytes.windows(9).position(|window| window == format!("needle {number} ").as_bytes()).expect("it stands there") as u64;
    flip_byte(&segment, at(3));
    flip_byte(&segment, at(7));
    let checked = tool(&["check"], &node.data);
    assert_eq!(checked.code, Some(7), "{}", checked.out);
    assert!(checked.err.contains("damaged") && checked.err.lines().count() == 1, "{}", checked.err);
    let damage: Vec<Value> = json_lines(&tool(&["check", "-o", "json"], &node.data).out)[0]["damage"].as_array().expect("a list").clone();
    for number in [3, 7] {
        // The record's header, operation and key stand in front of the value.
        let start = at(number) - 32 - 9 - 5;
        assert!(damage.iter().any(|one| one["file"] == *name && one["offset"] == start), "entry of needle {number}: {damage:?}");
    }
    let dumped = tool(&["dump"], &node.data);
    assert_eq!((dumped.code, dumped.out.as_str()), (Some(7), ""), "nobody knows the state");
    let dumped = tool(&["dump", "--log"], &node.data);
    assert_eq!((dumped.code, dumped.out.lines().count()), (Some(7), 4), "the entries in front of the damage: {}", dumped.out);
    for file in ["identity", "cluster", "hardstate", "marks", "manifest"] {
        let (path, area) = (node.data.join(file), node.data.join(file).metadata().expect("it is there").len() / 4);
        let flip_pair = || [0, 2].iter().for_each(|copy| flip_byte(&path, copy * area + 50));
        flip_pair();
        let checked = tool(&["check"], &node.data);
        flip_pair();
        assert_eq!(checked.code, Some(7), "{file}: {}", checked.out);
        assert!(checked.out.contains(&format!("DAMAGE    {file} at offset 0: ")), "{file}: {}", checked.out);
    }
    flip_byte(&segment, at(3));
    flip_byte(&segment, at(7));

    // A byte behind the last batch is a write that never was finished.
    let summary = json_lines(&tool(&["check", "-o", "json"], &node.data).out).remove(0);
    let (tail, end) = (summary["open_file"].as_str().expect("a name"), summary["open_offset"].as_u64().expect("an offset"));
    flip_byte(&node.data.join(tail), end + 1);
    let checked = tool(&["check"], &node.data);
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.err);
    assert!(checked.out.contains(&format!("{tail} at offset {end}: a write was interrupted")), "{}", checked.out);
    cluster.start_all();
    assert!(cluster.client(PATIENCE).get(b"key 19").expect("the node works").is_some());
}

#[test]
fn wrong_usage_wrong_rights_and_wrong_directories_are_told_apart() {
    let cluster = stopped_with_values();
    let (dir, scratch) = (&cluster.nodes[0].data, cluster.scratch());
    for wrong in [&["check", "--fast"][..], &["check", "-o", "xml"], &["dump", "--keys", "--log"], &["check", "second"]] {
        let ended = tool(wrong, dir);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{wrong:?}: {}", ended.err);
    }
    assert_eq!(run(Command::new(env!("CARGO_BIN_EXE_apexkv")).arg("check")).code, Some(2));
    for missing in [scratch.join("missing"), dir.join("lock")] {
        let ended = tool(&["check"], &missing);
        assert!(ended.code == Some(7) && ended.err.contains(&missing.display().to_string()), "{}", ended.err);
    }
    let empty = scratch.join("empty");
    std::fs::create_dir(&empty).expect("the scratch directory is writable");
    let ended = tool(&["check"], &empty);
    assert!(ended.code == Some(0) && ended.out.contains("no node has used this directory"), "{}{}", ended.out, ended.err);
    assert_eq!(tool(&["dump"], &empty).code, Some(7));
    assert_eq!(std::fs::read_dir(&empty).expect("it is ours").count(), 0, "nothing was made");

    // Somebody who may not read the files, and then one who may not even list them.
    let (program, user) = (scratch.join("apexkv"), geteuid().is_root().then_some(65534));
    std::fs::copy(env!("CARGO_BIN_EXE_apexkv"), &program).expect("the scratch directory is writable");
    [scratch, &program, dir].iter().for_each(|path| set_mode(path, 0o755));
    let lock = dir.join("lock");
    let check_as_somebody = || {
        let mut command = Command::new(&program);
        user.map(|user| command.uid(user));
        run(command.arg("check").arg(dir))
    };
    set_mode(&lock, 0o000);
    let ended = check_as_somebody();
    assert!(ended.code == Some(7) && ended.err.contains("lock") && ended.err.contains("ermission"), "{}", ended.err);
    set_mode(dir, 0o000);
    let ended = check_as_somebody();
    set_mode(dir, 0o700);
    assert!(ended.code == Some(7) && ended.err.contains(&dir.display().to_string()), "{}", ended.err);
    set_mode(&lock, 0o600);
}

#[test]
fn the_right_to_read_is_enough_and_a_reader_may_leave() {
    let mut cluster = stopped_with_values();
    let Node { data, .. } = &cluster.nodes[0];
    for path in std::fs::read_dir(data).expect("it is ours").map(|entry| entry.expect("it is ours").path()) {
        set_mode(&path, 0o400);
    }
    set_mode(data, 0o500);
    let checked = tool(&["check"], data);
    assert_eq!(checked.code, Some(0), "{}{}", checked.out, checked.err);
    let shell = format!("'{}' dump --log '{}' | head -n 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_apexkv"), data.display());
    let ended = run(Command::new("/bin/bash").args(["-c", &shell]));
    assert_eq!((ended.code, ended.out.lines().count(), ended.err.as_str()), (Some(0), 1, ""));
    set_mode(data, 0o700);
    for path in std::fs::read_dir(data).expect("it is ours").map(|entry| entry.expect("it is ours").path()) {
        set_mode(&path, 0o600);
    }
    cluster.start_all();
}
