//! The floors of the house: a room uses only the rooms named for it here, and none above it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Each room and what it may use, lowest floor first. A room may only name rooms listed before it.
const ROOMS: &[(&str, &[&str])] = &[
    ("access", &[]),
    ("ids", &[]),
    ("input", &[]),
    ("secret", &[]),
    ("settings", &[]),
    ("untrusted", &[]),
    ("logs", &["untrusted"]),
    ("proxy", &["secret"]),
    ("http", &["proxy"]),
    ("service", &[]),
    ("terminal", &["untrusted", "logs"]),
    ("vendors", &["http", "secret"]),
    ("protocol", &["ids", "input", "secret"]),
    ("keepalive", &[]),
    ("device", &["secret", "vendors"]),
    ("channel", &["vendors"]),
    ("binding", &["ids", "secret", "vendors", "protocol", "keepalive"]),
    ("session", &["ids", "input", "secret", "vendors", "protocol", "keepalive", "channel", "binding"]),
    ("delivery", &["ids", "secret", "untrusted", "vendors", "protocol"]),
    ("names", &[]),
    ("mqtt", &["secret", "proxy", "protocol", "keepalive", "names"]),
    ("store", &["ids", "secret", "vendors", "protocol", "keepalive", "device", "binding", "session"]),
    (
        "agent",
        &[
            "access",
            "ids",
            "input",
            "secret",
            "settings",
            "logs",
            "service",
            "terminal",
            "untrusted",
            "vendors",
            "protocol",
            "keepalive",
            "device",
            "channel",
            "binding",
            "session",
            "names",
            "mqtt",
            "store",
        ],
    ),
    (
        "gateway",
        &[
            "access",
            "ids",
            "input",
            "secret",
            "proxy",
            "settings",
            "logs",
            "http",
            "service",
            "terminal",
            "untrusted",
            "vendors",
            "protocol",
            "keepalive",
            "delivery",
            "names",
            "mqtt",
            "store",
        ],
    ),
    // The lab writes the programs' manual from their command lines.
    (
        "lab",
        &[
            "ids",
            "secret",
            "logs",
            "http",
            "terminal",
            "untrusted",
            "vendors",
            "protocol",
            "keepalive",
            "names",
            "mqtt",
            "agent",
            "gateway",
        ],
    ),
];

fn rust_files(path: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The rooms a source text names: `crate::room`, and the members of `use crate::{...}`.
fn named(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in text.split("crate::").skip(1) {
        let word = |s: &str| s.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        match part.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(',').map(|item| word(item.trim())));
            }
            None => {
                found.insert(word(part));
            }
        }
    }
    found.remove("");
    found
}

#[test]
fn no_room_uses_one_that_is_not_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names: Vec<&str> = ROOMS.iter().map(|(name, _)| *name).collect();
    let mut wrong = Vec::new();
    for (floor, (room, allowed)) in ROOMS.iter().enumerate() {
        for below in *allowed {
            assert!(names[..floor].contains(below), "the table itself: {room} stands below {below}");
        }
        let mut files = Vec::new();
        if source.join(room).is_dir() {
            rust_files(&source.join(room), &mut files);
        } else {
            files.push(source.join(format!("{room}.rs")));
        }
        for file in files {
            let text = std::fs::read_to_string(&file).expect("read");
            for used in named(&text) {
                if names.contains(&used.as_str()) && used != **room && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{} uses {used}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_in_the_source_stands_in_the_table() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in std::fs::read_dir(source).expect("listed") {
        let name = entry.expect("an entry").file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        if !["lib", "main", "bin"].contains(&name.as_str()) {
            assert!(ROOMS.iter().any(|(room, _)| *room == name), "`{name}` has no floor");
        }
    }
}

#[test]
fn every_source_file_says_in_its_first_line_what_it_knows_and_stays_short() {
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("read");
        assert!(text.starts_with("//! "), "{} does not say what it knows", file.display());
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        assert!(lines <= 500, "{} has {lines} lines before its tests", file.display());
    }
}
