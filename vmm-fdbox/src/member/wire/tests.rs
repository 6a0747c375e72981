//! Every message, as sent by the first version and as listed in docs/member-protocol.md.

use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;

const GOLDEN: &str = include_str!("../../../tests/golden/member-1.jsonl");

fn read<T: DeserializeOwned>(line: &Value) -> Option<T> {
    let say = line["say"].as_str().unwrap();
    let with = line.get("with").cloned().unwrap_or_else(|| json!({}));
    serde_json::from_value(json!({ say: with })).ok()
}

fn written(message: &impl Serialize) -> Value {
    let value = serde_json::to_value(message).unwrap();
    let (say, with) = value.as_object().unwrap().iter().next().unwrap();
    match with == &json!({}) {
        true => json!({ "say": say }),
        false => json!({ "say": say, "with": with }),
    }
}

/// One role's lines, without the names of descriptors.
fn lines(of: &str) -> Vec<Value> {
    let lines = GOLDEN
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines = lines.filter(|line| line["of"] == of);
    let strip = |mut line: Value| {
        let line_fields = line.as_object_mut().unwrap();
        line_fields.remove("of");
        line_fields.remove("fds");
        line
    };
    let lines: Vec<Value> = lines.map(strip).collect();
    assert!(!lines.is_empty(), "{of}");
    lines
}

/// Version 1 can be read and is written back unchanged, and every variant occurs.
fn check<T: DeserializeOwned + Serialize + Debug>(of: &str, names: &[&str]) {
    for line in lines(of) {
        let message: T = read(&line).unwrap_or_else(|| panic!("{of}: {line}"));
        assert_eq!(written(&message), line);
    }
    let mut seen: Vec<String> = lines(of)
        .iter()
        .map(|line| line["say"].as_str().unwrap().to_owned())
        .collect();
    seen.dedup();
    assert_eq!(seen, names);
    let unknown = serde_json::from_value::<T>(json!({ "?": {} }))
        .unwrap_err()
        .to_string();
    for name in unknown.split('`').skip(3).step_by(2) {
        assert!(
            names.contains(&name),
            "{of} can say {name}, and no sample does"
        );
    }
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/member-protocol.md");
    let docs = std::fs::read_to_string(docs).unwrap();
    for name in names {
        assert!(
            docs.contains(&format!("| `{name}` |")),
            "{name} is not documented"
        );
    }
}

#[test]
fn version_1_is_read_and_written() {
    check::<Greeting>("both", &["hello"]);
    check::<LeavingRequest>(
        "to-leaving",
        &[
            "join",
            "prepare",
            "quiesce",
            "pause",
            "take-back",
            "hand-over",
            "roll-back",
            "set-down",
        ],
    );
    check::<LeavingReply>(
        "leaving",
        &[
            "joined",
            "event",
            "prepared",
            "quiet",
            "saved",
            "cancel-asked",
            "taken-back",
            "box-gone",
            "handed-over",
            "stopped",
            "down",
            "refused",
        ],
    );
    check::<ArrivingRequest>(
        "to-arriving",
        &["arrive", "prebuild", "restore", "commit", "adopt"],
    );
    check::<ArrivingReply>(
        "arriving",
        &[
            "ready", "prebuilt", "restored", "running", "report", "adopted", "failed",
        ],
    );
}

/// Who knows no homes hears of none, as long as it is the module that keeps boxes.
#[test]
fn a_home_is_named_where_it_is_not_the_module() {
    let module = |home| Module {
        uapi_version: 1,
        handover_version: 1,
        features: 5,
        home,
    };
    let json = serde_json::to_value(module(Home::Fdbox)).unwrap();
    assert_eq!(json.get("home"), None);
    for (home, name) in [(Home::Luo, "luo"), (Home::Holder, "holder")] {
        let json = serde_json::to_value(module(home)).unwrap();
        assert_eq!(json["home"], name);
        assert_eq!(
            serde_json::from_value::<Module>(json).unwrap(),
            module(home)
        );
        assert_eq!(home.to_string(), name);
    }
}

#[test]
fn a_hello_of_a_later_version_is_understood() {
    let later = json!({ "hello": { "version": 7, "more": [1] } });
    let Greeting::Hello { version } = serde_json::from_value(later).unwrap();
    assert_eq!(version, 7);
}

/// Reads a message, which must survive to be written and read again.
fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(input: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<T>(input) {
        let written = serde_json::to_vec(&message).unwrap();
        assert_eq!(serde_json::from_slice::<T>(&written).unwrap(), message);
        let _ = name_of(&message);
    }
}

#[test]
fn fuzz_member() {
    let message = |line: Value| json!({ line["say"].as_str().unwrap(): line["with"] }).to_string();
    let lines = GOLDEN
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let seeds: Vec<String> = lines.map(message).collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    crate::fuzz::run("member", &seeds, |input| {
        again::<Greeting>(input);
        again::<LeavingRequest>(input);
        again::<LeavingReply>(input);
        again::<ArrivingRequest>(input);
        again::<ArrivingReply>(input);
    });
}
