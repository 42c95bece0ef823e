//! What a script relies on: the exit code, the bytes on standard output, the JSON objects.

mod fake;

use apexkv_client::protocol::Status;
use apexkv_client::testing::MemoryNode;
use fake::{Act, Node, dead_endpoint, response, version};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn command(endpoints: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_apexkv-client"));
    std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(b"APEXKV_")).for_each(|(name, _)| {
        command.env_remove(name);
    });
    command.args(["--endpoints", endpoints, "--timeout", "2s"]);
    command
}

fn run(endpoints: &str, arguments: &[&str]) -> Output {
    command(endpoints).args(arguments).output().expect("the binary starts")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

/// The JSON objects on standard output, a line each.
fn objects(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("JSON is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

#[test]
fn writes_print_the_version() {
    let node = Node::always(version(42));
    for arguments in [&["set", "k", "v"][..], &["cas", "k", "41", "v"], &["del", "k"]] {
        let output = run(&node.endpoint, arguments);
        assert_eq!((code(&output), &output.stdout[..]), (0, &b"42\n"[..]), "{arguments:?}");
        let output = run(&node.endpoint, &[arguments, &["-o", "json"][..]].concat());
        let expected = json!({"ok": true, "status": "OK", "key": "k", "endpoint": node.endpoint, "version": 42});
        assert_eq!(objects(&output), [expected], "{arguments:?}");
    }
    assert_eq!(node.frames()[2], b"\x04\x01\0\0\0\x09\0\0\0k\x29\0\0\0\0\0\0\0v");
}

#[test]
fn values_come_out_byte_for_byte() {
    let node = Node::always(response(Status::Ok, b"\x07\0\0\0\0\0\0\0a\n\xff"));
    let output = run(&node.endpoint, &["get", "k"]);
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"\x07\0\0\0\0\0\0\0a\n\xff"[..]));
    let output = run(&node.endpoint, &["getv", "k"]);
    assert_eq!((code(&output), &output.stdout[..]), (0, &b"7\ta\n\xff"[..]));
    let output = run(&node.endpoint, &["-o", "json", "getv", "k"]);
    let expected = json!({"ok": true, "status": "OK", "key": "k", "endpoint": node.endpoint, "version": 7, "value_base64": "YQr/"});
    assert_eq!(objects(&output), [expected]);
}

#[test]
fn keys_and_values_go_in_byte_for_byte() {
    let node = Node::always(version(1));
    let mut child = command(&node.endpoint)
        .arg("set")
        .arg(OsStr::from_bytes(b"\xfe"))
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().expect("a pipe was asked for").write_all(b"in\n\xff").expect("the child reads");
    assert!(child.wait().expect("the child ends").success());
    assert_eq!(code(&run(&node.endpoint, &["set", "k", "-5"])), 0, "a value may begin with a dash");
    assert_eq!(node.frames(), [&b"\x01\x01\0\0\0\x04\0\0\0\xfein\n\xff"[..], b"\x01\x01\0\0\0\x02\0\0\0k-5"]);
}

#[test]
fn each_outcome_has_its_exit_code_and_its_object() {
    let conflict = response(Status::Conflict, &9u64.to_le_bytes());
    let cases: [(Vec<u8>, &[&str], i32, &str); 8] = [
        (response(Status::NotFound, b""), &["get", "k"], 3, "NOT_FOUND"),
        (response(Status::NotFound, b""), &["del", "k"], 3, "NOT_FOUND"),
        (conflict, &["cas", "k", "1", "v"], 1, "CONFLICT"),
        (response(Status::Error, b"no"), &["set", "k", "v"], 1, "ERROR"),
        (response(Status::BadRequest, b"no"), &["set", "k", "v"], 1, "BAD_REQUEST"),
        (response(Status::Unknown, b"lost"), &["set", "k", "v"], 6, "UNKNOWN"),
        (response(Status::Busy, b"full"), &["--timeout", "1s", "set", "k", "v"], 4, "UNAVAILABLE"),
        (version(1), &["set", "", "v"], 2, "USAGE"),
    ];
    for (answer, arguments, expected, status) in cases {
        let node = Node::always(answer);
        let mut plain = Command::new(env!("CARGO_BIN_EXE_apexkv-client"));
        let output = plain.args(["--endpoints", &node.endpoint]).args(arguments).output().expect("the binary starts");
        assert_eq!((code(&output), output.stdout.len()), (expected, 0), "{arguments:?}");
        let text = String::from_utf8(output.stderr).expect("messages are text");
        assert!(text.starts_with("apexkv-client: ") && text.lines().count() == 1, "{text}");

        let mut plain = Command::new(env!("CARGO_BIN_EXE_apexkv-client"));
        let output = plain.args(["--endpoints", &node.endpoint, "-o", "json"]).args(arguments).output().expect("the binary starts");
        let objects = objects(&output);
        assert_eq!((code(&output), objects.len()), (expected, 1), "{arguments:?}");
        assert_eq!((&objects[0]["ok"], &objects[0]["status"]), (&json!(false), &json!(status)));
        assert_eq!(objects[0]["error"].is_string(), status != "NOT_FOUND", "{objects:?}");
        assert_eq!(objects[0]["current"].as_u64(), (status == "CONFLICT").then_some(9));
    }
}

#[test]
fn no_node_is_exit_4_and_names_the_endpoints_and_the_remedy() {
    let (first, second) = (dead_endpoint(), dead_endpoint());
    let output = run(&format!("{first},{second}"), &["--timeout", "100ms", "get", "k"]);
    assert_eq!(code(&output), 2, "a flag given twice is a usage error");
    let mut command = Command::new(env!("CARGO_BIN_EXE_apexkv-client"));
    command.env("APEXKV_ENDPOINTS", format!("{first},{second}")).env("APEXKV_TIMEOUT", "100ms");
    let output = command.args(["get", "k"]).output().expect("the binary starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(code(&output), 4);
    assert!(text.contains(&first) && text.contains(&second) && text.contains("--endpoints"), "{text}");
}

#[test]
fn bad_usage_is_exit_2_before_anything_is_sent() {
    let node = Node::always(version(1));
    let cases: [&[&str]; 12] = [
        &[],
        &["frobnicate"],
        &["set", "k"],
        &["cas", "k", "one", "v"],
        &["scan", "--limit", "0"],
        &["bench", "--duration", "5"],
        &["bench", "--key-size", "3"],
        &["bench", "--connections", "0"],
        &["bench", "--rate", "fast"],
        &["bench", "--theta", "0"],
        &["bench", "--reads", "90"],
        &["bench", "--csv", "-o", "json"],
    ];
    for arguments in cases {
        assert_eq!(code(&run(&node.endpoint, arguments)), 2, "{arguments:?}");
    }
    assert_eq!(code(&run("localhost", &["get", "k"])), 2, "an endpoint without a port");
    assert!(node.frames().is_empty());
    let help = run(&node.endpoint, &["--help"]);
    assert_eq!(code(&help), 0);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
}

fn page(more: u8, pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = vec![more];
    for (number, (key, value)) in pairs.iter().enumerate() {
        bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(number as u64 + 1).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    response(Status::Ok, &bytes)
}

#[test]
fn a_scan_prints_all_pages_escaped_and_stops_at_its_limit() {
    let first = page(1, &[(b"p\t1", b"a\\b"), (b"p\xff", b"line\nbreak")]);
    let second = page(0, &[(b"p\xff\x01", b"")]);
    let node = Node::start(move |frame, _| Act::Send(if frame.ends_with(b"\xff") { second.clone() } else { first.clone() }));
    let output = run(&node.endpoint, &["scan", "p"]);
    let expected = "p\\t1\t1\ta\\\\b\np\\xff\t2\tline\\nbreak\np\\xff\\x01\t1\t\n";
    assert_eq!((code(&output), String::from_utf8_lossy(&output.stdout).as_ref()), (0, expected));
    let before = node.frames().len();
    let output = run(&node.endpoint, &["scan", "p", "--limit", "2", "-o", "json"]);
    let expected = [
        json!({"ok": true, "status": "OK", "key": "p\t1", "version": 1, "value": "a\\b"}),
        json!({"ok": true, "status": "OK", "key_base64": "cP8=", "version": 2, "value": "line\nbreak"}),
    ];
    assert_eq!(objects(&output), expected);
    assert_eq!(node.frames().len(), before + 1, "no page is fetched beyond the limit");
}

#[test]
fn status_shows_every_endpoint_also_those_that_do_not_answer() {
    let node = Node::always(response(Status::Ok, br#"{"role":"leader","term":3,"leader":null,"disk_bytes":1572864,"uptime_ms":61000}"#));
    let dead = dead_endpoint();
    let both = format!("{},{dead}", node.endpoint);
    let output = run(&both, &["status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code(&output), lines.len()), (0, 3), "{text}");
    assert!(lines[1].contains("leader") && lines[1].contains("1.5MiB") && lines[1].contains("61s"), "{text}");
    assert!(lines[2].starts_with(&dead) && lines[2].contains("unreachable"), "{text}");

    let output = run(&both, &["status", "-o", "json"]);
    let objects = objects(&output);
    assert_eq!((objects.len(), &objects[0]["node"]["term"], &objects[1]["ok"]), (2, &json!(3), &json!(false)));
    assert_eq!(code(&run(&dead, &["status"])), 4);
}

#[test]
fn ping_prints_the_round_trip_to_the_first_that_answers() {
    let node = Node::start(|frame, _| Act::Send(response(Status::Ok, &frame[9..])));
    let output = run(&format!("{},{}", dead_endpoint(), node.endpoint), &["ping"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(code(&output), 0);
    assert!(text.trim_end().strip_suffix("us").is_some_and(|number| number.parse::<u64>().is_ok()), "{text}");
    assert_eq!(code(&run(&dead_endpoint(), &["ping"])), 4);
}

/// A node with one key.
fn one_key_node(forgets: bool) -> Node {
    let mut stored: Option<Vec<u8>> = None;
    let mut index = 0u64;
    Node::start(move |frame, _| {
        index += 1;
        let key_length = frame[1] as usize;
        Act::Send(match (frame[0], &stored) {
            (1, _) => {
                stored = (!forgets).then(|| [&index.to_le_bytes()[..], &frame[9 + key_length..]].concat());
                version(index)
            }
            (2, Some(stored)) => response(Status::Ok, &stored[8..]),
            (5, Some(stored)) => response(Status::Ok, stored),
            (3, Some(_)) => {
                stored = None;
                version(index)
            }
            _ => response(Status::NotFound, b""),
        })
    })
}

#[test]
fn check_passes_on_a_store_and_fails_on_one_that_forgets() {
    let output = run(&one_key_node(false).endpoint, &["check"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((code(&output), text.lines().count()), (0, 6), "{text}");
    assert!(text.contains("check passed"), "{text}");
    let output = run(&one_key_node(true).endpoint, &["check", "-o", "json"]);
    assert_eq!(code(&output), 1);
    assert_eq!(objects(&output).last().map(|last| last["ok"].clone()), Some(json!(false)));
}

#[test]
fn bench_reports_what_it_measured() {
    let node = Node::start(|frame, _| Act::Send(if frame[0] == 1 { version(1) } else { response(Status::Ok, b"value") }));
    let short = ["--connections", "2", "--depth", "4", "--keys", "200", "--duration", "200ms", "--warmup", "0s"];
    for workload in ["set", "get", "mixed"] {
        let output = run(&node.endpoint, &[&["bench", "-o", "json", "--workload", workload][..], &short].concat());
        let objects = objects(&output);
        assert_eq!((code(&output), objects.len()), (0, 1), "{workload}");
        assert!(objects[0]["operations"].as_u64().is_some_and(|count| count > 0), "{objects:?}");
        assert_eq!(objects[0]["errors"], json!({}), "{workload}");
    }
    let output = run(&node.endpoint, &[&["bench"][..], &short].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("ops/s") && text.contains("p99") && text.contains("errors: none"), "{text}");
}

#[test]
fn a_fixed_rate_is_kept_and_latencies_count_from_when_requests_were_due() {
    // Every answer takes 10 ms, so one connection can have at most 100 a second.
    let node = Node::start(|_, before| {
        std::thread::sleep(Duration::from_millis(if before == 0 { 0 } else { 10 }));
        Act::Send(version(1))
    });
    let flags = ["bench", "-o", "json", "--connections", "1", "--warmup", "0s", "--duration", "1s"];
    let reached = &objects(&run(&node.endpoint, &[&flags[..], &["--rate", "20"]].concat()))[0];
    let done = reached["operations"].as_u64().unwrap_or(0);
    // On a machine that stands still at the very end, the last ones stay unsent.
    assert!((15..=20).contains(&done) && done + reached["errors"]["unsent"].as_u64().unwrap_or(0) == 20, "{reached}");
    assert!(reached["p50_us"].as_f64().is_some_and(|p50| p50 >= 10_000.0), "{reached}");

    let missed = &objects(&run(&node.endpoint, &[&flags[..], &["--rate", "1k"]].concat()))[0];
    let (done, unsent) = (missed["operations"].as_u64().unwrap_or(0), missed["errors"]["unsent"].as_u64().unwrap_or(0));
    assert!(done + unsent == 1_000 && unsent >= 890, "{missed}");
    assert!(missed["max_us"].as_f64().is_some_and(|max| max > 500_000.0), "the wait for its turn is part of a latency: {missed}");
}

#[test]
fn bench_counts_failures_by_kind_and_keeps_them_out_of_the_latencies() {
    let node = Node::start(|frame, before| match before % 4 {
        _ if frame[0] == 2 => Act::Send(response(Status::NotFound, &[])),
        1 => Act::Send(response(Status::Busy, b"later")),
        2 => Act::Send(response(Status::Unknown, b"who knows")),
        3 => Act::Close,
        _ => Act::Send(version(1)),
    });
    let flags = ["bench", "-o", "json", "--connections", "1", "--warmup", "0s", "--duration", "300ms"];
    let result = &objects(&run(&node.endpoint, &flags))[0];
    for kind in ["BUSY", "UNKNOWN", "connection"] {
        assert!(result["errors"][kind].as_u64().is_some_and(|count| count > 0), "{kind}: {result}");
    }
    let absent = run(&node.endpoint, &[&flags[..], &["--workload", "get", "--prefill", "no"]].concat());
    let result = &objects(&absent)[0];
    assert_eq!((code(&absent), &result["operations"], &result["max_us"]), (4, &json!(0), &json!(0.0)), "{result}");
    assert!(result["errors"]["NOT_FOUND"].as_u64().is_some_and(|count| count > 0), "{result}");
}

/// Busy, an open outcome, a node that does not lead for a moment, a broken connection.
#[test]
fn the_keys_before_a_measurement_are_all_written_whatever_happens_on_the_way() {
    const KEYS: usize = 300;
    let written = Arc::new(Mutex::new(BTreeSet::new()));
    let (seen, mut sets) = (written.clone(), 0);
    let node = Node::start(move |frame, _| {
        if frame[0] != 1 {
            return Act::Send(response(Status::Ok, b"value"));
        }
        sets += 1;
        match sets {
            20 | 21 => return Act::Send(response(Status::Busy, b"later")),
            60 | 61 => return Act::Send(response(Status::Unknown, b"who knows")),
            100 => return Act::Send(response(Status::NotLeader, b"")),
            150 => return Act::Close,
            _ => {}
        }
        seen.lock().expect("no script panics").insert(frame.to_vec());
        Act::Send(version(1))
    });
    let flags = ["bench", "-o", "json", "--workload", "get", "--keys", "300", "--duration", "50ms", "--warmup", "0s"];
    let output = run(&node.endpoint, &flags);
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(written.lock().expect("no script panics").len(), KEYS);

    let full = Node::start(|frame, _| {
        Act::Send(if frame[0] == 1 { response(Status::BadRequest, b"too large") } else { response(Status::Ok, b"value") })
    });
    let output = run(&full.endpoint, &flags);
    assert_ne!(code(&output), 0);
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(told.contains("too large"), "a refusal for good is not repeated: {told}");
}

#[test]
fn bench_prints_csv_with_heads() {
    let node = Node::always(version(1));
    let flags = ["--csv", "--workload", "mixed", "--reads", "95", "--distribution", "zipfian", "--keys", "100"];
    let output = run(&node.endpoint, &[&["bench", "--duration", "100ms", "--warmup", "0s", "--connections", "2"][..], &flags].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!((code(&output), lines.len(), lines[0].len()), (0, 2, lines[1].len()), "{text}");
    let field = |name: &str| lines[0].iter().position(|head| *head == name).map(|column| lines[1][column]);
    assert_eq!(
        (field("reads"), field("distribution"), field("theta"), field("rate")),
        (Some("95"), Some("zipfian"), Some("0.99"), Some(""))
    );
    assert!(output.stderr.is_empty(), "no progress line in a pipe");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_but_a_full_disk_is() {
    let large = vec![b'x'; 4 << 20];
    let node = Node::always(response(Status::Ok, &large));
    let mut child: Child = command(&node.endpoint).args(["get", "k"]).stdout(Stdio::piped()).spawn().expect("the binary starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("the child ends").code(), Some(0));

    let full = File::options().write(true).open("/dev/full").expect("Linux has a device that is always full");
    let output = command(&node.endpoint).args(["get", "k"]).stdout(full).stderr(Stdio::piped()).output().expect("the binary starts");
    assert_eq!(code(&output), 7);
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn an_interrupt_is_exit_130() {
    let node = Node::start(|_, _| Act::Silence);
    let mut child = command(&node.endpoint).args(["set", "k", "v"]).spawn().expect("the binary starts");
    fake::eventually("the request arrives", || !node.frames().is_empty());
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill is part of every system");
    assert!(killed.success());
    assert_eq!(child.wait().expect("the child ends").code(), Some(130));
}

/// What a shell prints and ends with when it is given these lines.
fn shell(endpoints: &str, flags: &[&str], lines: &str) -> (i32, String, String) {
    let mut shell = command(endpoints);
    shell.args(flags).arg("shell").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut shell = shell.spawn().expect("the binary starts");
    shell.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("the shell reads");
    let output = shell.wait_with_output().expect("it ends when its input does");
    (code(&output), String::from_utf8(output.stdout).expect("text"), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn a_shell_carries_out_its_lines_over_one_connection() {
    let node = MemoryNode::start().expect("a free port");
    let lines = "set 'a b' \"hello world\"\n\n# a comment\n  get 'a b'\nscan --keys-only\ndel 'a b'\n";
    let (code, printed, complaints) = shell(&node.endpoint(), &[], lines);
    assert_eq!((code, printed.as_str(), complaints.as_str()), (0, "1\nhello world\na b\t1\n2\n", ""));
}

#[test]
fn a_shell_goes_on_after_a_failure_and_ends_with_its_code() {
    let node = MemoryNode::start().expect("a free port");
    let (code, printed, complaints) = shell(&node.endpoint(), &[], "get nothing\nset k v\nexit\nset k w\n");
    assert_eq!((code, printed.as_str()), (3, "1\n"), "{complaints}");
    assert!(complaints.contains("key not found: nothing"), "{complaints}");
    for (line, reason) in
        [("sett k v", "'set'"), ("set k", "<VALUE>"), ("set k 'v", "quote"), ("set k -", "standard input"), ("shell", "already")]
    {
        let (code, printed, complaints) = shell(&node.endpoint(), &[], &format!("{line}\n"));
        assert_eq!((code, printed.as_str()), (2, ""), "{line}: {complaints}");
        assert!(complaints.contains(reason), "{line}: {complaints}");
    }
    let (code, printed, _) = shell(&node.endpoint(), &["-o", "json"], "getv k\nget nothing\n");
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!((code, &objects[0]["value"], &objects[1]["status"]), (3, &json!("v"), &json!("NOT_FOUND")));
}

#[test]
fn help_in_the_shell_names_the_commands() {
    let (code, printed, complaints) = shell(&dead_endpoint(), &[], "help\nhelp scan\n");
    assert_eq!(code, 0, "{complaints}");
    for word in ["cas ", "status ", "exit ", "quit", "--keys-only"] {
        assert!(printed.contains(word), "{word} in {printed}");
    }
}

#[test]
fn waiting_for_a_leader_ends_when_one_serves_or_the_time_is_over() {
    let node = MemoryNode::start().expect("a free port");
    let output = run(&node.endpoint(), &["status", "--wait-leader", "10s"]);
    assert!(code(&output) == 0 && String::from_utf8_lossy(&output.stdout).contains("leader"), "{output:?}");
    let leaderless = Node::start(|frame, _| match frame[0] {
        8 => Act::Send(response(Status::Ok, b"{}")),
        _ => Act::Send(response(Status::NotLeader, b"")),
    });
    let output = run(&leaderless.endpoint, &["status", "--wait-leader", "300ms"]);
    assert_eq!((code(&output), output.stdout.len()), (4, 0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("not the leader, knows of none"), "{output:?}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let node = MemoryNode::start().expect("a free port");
    for (variable, coloured) in [("CLICOLOR_FORCE", true), ("NO_COLOR", false), ("TERM", false)] {
        let output = command(&node.endpoint()).arg("status").env(variable, "1").output().expect("the binary starts");
        assert_eq!(output.stdout.contains(&0x1b), coloured, "{variable}: {output:?}");
    }
}

#[test]
fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&dead_endpoint(), &["completions", shell]);
        let script = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(code(&output) == 0 && script.contains("apexkv-client") && script.contains("keys-only"), "{shell}: {script}");
    }
}

/// What a leader answers to the opening of a backup of cluster 1, term 2, index 3.
fn backup_opened(id: u64) -> Act {
    let numbers = [id, 1, 0, 2, 3, 100];
    Act::Send(response(Status::Ok, &numbers.map(u64::to_le_bytes).concat()))
}

fn backup_part(position: u64, records: &[u8]) -> Act {
    let more = u8::from(!records.is_empty());
    Act::Send(response(Status::Ok, &[&[more][..], &position.to_le_bytes(), &u32::from(more).to_le_bytes(), records].concat()))
}

#[test]
fn a_backup_that_breaks_off_starts_over_and_gets_its_name_when_it_is_whole() {
    let dir = tempfile::tempdir().expect("a place for files");
    let file = dir.path().join("backup");
    let path = file.to_str().expect("a plain name");
    let temporary = dir.path().join("backup.tmp");
    let node = Node::start(|_, before| match before {
        0 => backup_opened(7),
        1 => backup_part(1, b"lost"),
        2 => Act::Close,
        3 => backup_opened(8),
        4 => backup_part(1, b"kept"),
        _ => backup_part(2, b""),
    });
    let output = run(&node.endpoint, &["-o", "json", "backup", path]);
    assert_eq!(code(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("starts over"));
    let cluster = format!("{:032x}", 1);
    let expected =
        json!({"ok": true, "status": "OK", "file": path, "bytes": 80, "records": 1, "cluster_id": cluster, "term": 2, "index": 3});
    assert_eq!(objects(&output), [expected]);
    let written = std::fs::read(&file).expect("it was written");
    assert_eq!((&written[..8], &written[48..52], &written[52..60]), (&b"ApexKVbk"[..], &b"kept"[..], &b"ApexKVbe"[..]));
    assert!(!temporary.exists());
    let frames = node.frames();
    assert_eq!(frames[0], b"\x09\0\0\0\0\x01\0\0\0\0");
    assert_eq!(frames[5], b"\x09\0\0\0\0\x11\0\0\0\x01\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0");

    let refused = run(&node.endpoint, &["backup", path]);
    assert_eq!(code(&refused), 2);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert_eq!(std::fs::read(&file).expect("it stays"), written);
    let damaged = Node::start(|_, before| match before {
        0 => backup_opened(7),
        _ => Act::Send(response(Status::Error, b"00000001.log is damaged at offset 4096")),
    });
    let failed = run(&damaged.endpoint, &["backup", path, "--force"]);
    assert_eq!((code(&failed), temporary.exists()), (1, false));
    assert_eq!(std::fs::read(&file).expect("it stays"), written, "the old one is better than nothing");
    let again = Node::start(|_, before| if before == 0 { backup_opened(7) } else { backup_part(1, b"") });
    assert_eq!(code(&run(&again.endpoint, &["backup", path, "--force"])), 0);
    assert_eq!(std::fs::read(&file).expect("it was replaced").len(), 76);
}

#[test]
fn a_backup_that_cannot_be_made_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a place for files");
    let file = dir.path().join("backup");
    let path = file.to_str().expect("a plain name");
    let always_broken = Node::start(|_, before| if before % 2 == 0 { backup_opened(7) } else { Act::Close });
    assert_eq!(code(&run(&always_broken.endpoint, &["backup", path])), 4);
    let malformed = Node::start(|_, before| if before % 2 == 0 { backup_opened(7) } else { backup_part(5, b"x") });
    assert_eq!(code(&run(&malformed.endpoint, &["backup", path])), 4);
    assert_eq!(code(&run(&dead_endpoint(), &["backup", path])), 4);
    assert_eq!(code(&run(&dead_endpoint(), &["backup", "-"])), 2);
    let node = Node::start(|_, _| backup_opened(7));
    assert_eq!(code(&run(&node.endpoint, &["backup", dir.path().join("missing/backup").to_str().expect("a plain name")])), 7);
    assert_eq!(std::fs::read_dir(dir.path()).expect("ours").count(), 0, "nothing stays behind");
}
