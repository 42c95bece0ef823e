//! The house rules that a compiler does not know: where unsafe code, syncs and threads may stand, how long lines, functions and files
//! may be, and that every file opens with what lives in it.

use std::path::{Path, PathBuf};

const LINE_WIDTH_MAX: usize = 140;
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = ["src", "client", "chaos", "tests"].iter().map(|name| root.join(name)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the source folders are readable") {
            let path = entry.expect("the source folders are readable").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("found below the root").display().to_string();
                found.push((name, std::fs::read_to_string(&path).expect("sources are UTF-8")));
            }
        }
    }
    found.sort();
    assert!(found.len() > 20, "only {} source files were found", found.len());
    found
}

fn is_code(line: &str) -> bool {
    !line.trim_start().starts_with("//")
}

/// The part of a file that ships: nothing of test files, and nothing behind the line that opens the unit tests.
fn shipping<'a>(name: &str, text: &'a str) -> &'a str {
    let is_test = name.contains("/tests/") || name.contains("_tests") || name.ends_with("/tests.rs");
    if name.starts_with("src/") && is_test { "" } else { text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text) }
}

/// Fails with every line that ships and holds one of `words` outside the files for which `allowed` is true.
fn only_in(words: &[&str], allowed: impl Fn(&str) -> bool) {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if name == "tests/tidy.rs" || allowed(&name) {
            continue;
        }
        for (number, line) in shipping(&name, &text).lines().enumerate() {
            if is_code(line) && words.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{words:?} may not stand here:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_in_one_file() {
    only_in(&["unsafe ", "unsafe{"], |name| name == "src/storage/mapping.rs");
}

#[test]
fn the_file_system_is_synced_in_one_file() {
    let outside_storage = |name: &str| !name.starts_with("src/") || name == "src/storage/real.rs";
    only_in(&[".sync_data()", ".sync_all()", "fdatasync(", "fsync("], outside_storage);
}

#[test]
fn the_server_spawns_threads_only_in_its_own_room() {
    only_in(&["thread::spawn", "thread::Builder"], |name| !name.starts_with("src/") || name.starts_with("src/server/"));
}

#[test]
fn the_core_imports_nothing_of_ours_and_nothing_that_blocks() {
    let words =
        ["crate::storage", "crate::server", "crate::protocol", "std::fs", "std::net", "std::thread", "std::time", "HashMap", "rand::"];
    only_in(&words, |name| !name.starts_with("src/raft/"));
}

#[test]
fn imports_point_inward() {
    only_in(&["crate::server"], |name| !name.starts_with("src/") || name.starts_with("src/server/") || name.starts_with("src/main"));
    only_in(&["crate::protocol"], |name| !name.starts_with("src/storage/") && !name.starts_with("src/raft/"));
    only_in(&["std::fs"], |name| !name.starts_with("src/storage/") || name == "src/storage/real.rs");
}

/// The script that plants them reads the table.
#[test]
fn every_planted_mistake_stands_in_the_table() {
    let sources = sources();
    let (_, table) = sources.iter().find(|(name, _)| name == "src/bugbank.rs").expect("the table is there");
    let rows = table.lines().filter_map(|line| line.strip_prefix("//! | ")?.split(" | ").next()?.parse::<u32>().ok());
    let planted =
        |text: &str| -> Vec<u32> { text.split("planted(").skip(1).filter_map(|rest| rest.split(')').next()?.parse().ok()).collect() };
    let places: Vec<u32> = sources.iter().filter(|(name, _)| name.starts_with("src/")).flat_map(|(_, text)| planted(text)).collect();
    let rows: Vec<u32> = rows.collect();
    assert!(rows.is_sorted_by(|a, b| a < b), "each number once, rising: {rows:?}");
    assert!(places.iter().all(|number| rows.contains(number)), "planted and not in the table: {places:?}");
    assert!(rows.iter().all(|number| places.contains(number)), "in the table and nowhere planted: {rows:?}");
}

#[test]
fn nothing_stays_unfinished_or_skipped() {
    only_in(&["todo!(", "unimplemented!(", "#[ignore", "dbg!("], |_| false);
}

#[test]
fn every_file_opens_with_its_purpose_and_fits_a_sitting() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        if !text.starts_with("//!") {
            wrong.push(format!("{name} does not open with //!"));
        }
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{name} has {lines} lines; split it ({FILE_LINES_MAX} at most)"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > LINE_WIDTH_MAX {
                wrong.push(format!("{name}:{}: wider than {LINE_WIDTH_MAX}", number + 1));
            }
        }
        wrong.extend(long_functions(&name, &text));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions, by indentation: from a line that declares one to the closing brace in the same column.
fn long_functions(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut open: Option<(usize, usize)> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let declares = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn "].iter().any(|word| line.trim_start().starts_with(word));
        if declares && !line.trim_end().ends_with(';') && !line.trim_end().ends_with('}') {
            open = Some((number, indent));
        } else if let Some((start, column)) = open
            && indent == column
            && line.trim() == "}"
        {
            if number - start + 1 > FUNCTION_LINES_MAX {
                wrong.push(format!("{name}:{}: a function of {} lines ({FUNCTION_LINES_MAX} at most)", start + 1, number - start + 1));
            }
            open = None;
        }
    }
    wrong
}

/// What readers of the project have no use for: the circumstances under which it was written.
#[test]
fn the_project_stands_alone() {
    only_in(&["../shared", "/work/"], |_| false);
}
