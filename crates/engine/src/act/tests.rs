//! Steps from answers of every kind, and from any text at all.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::act::{Condition, Entry, Rule, Test};

fn offered(name: &str, effect: Effect) -> Offered {
    Offered { name: name.into(), effect, is_parallel: effect == Effect::Read }
}

fn tools() -> Vec<Offered> {
    vec![
        offered("read_file", Effect::Read),
        offered("write_file", Effect::Repeatable),
        offered("run_command", Effect::Unsafe),
        offered(ASK_PERSON, Effect::Read),
        offered(GIVE_UP, Effect::Read),
        offered(HAND_OFF, Effect::Repeatable),
    ]
}

fn policy() -> Policy {
    let rule = |verdict, when| Rule { verdict, when };
    let entry = |tool: &str, rules| Entry { tool: tool.into(), rules };
    let in_src = Condition { argument: "path".into(), test: Test::Under(vec!["src".into()]) };
    let to_tester = Condition { argument: "role".into(), test: Test::OneOf(vec![json!("tester")]) };
    let cargo = Condition { argument: "program".into(), test: Test::OneOf(vec![json!("cargo")]) };
    Policy {
        entries: vec![
            entry("write_file", vec![rule(Verdict::Allow, vec![in_src])]),
            entry("run_command", vec![rule(Verdict::Allow, vec![cargo]), rule(Verdict::Ask, Vec::new())]),
            entry(ASK_PERSON, vec![rule(Verdict::Allow, Vec::new())]),
            entry(GIVE_UP, vec![rule(Verdict::Allow, Vec::new())]),
            entry(HAND_OFF, vec![rule(Verdict::Allow, vec![to_tester])]),
        ],
    }
}

fn call(name: &str, arguments: &str) -> Call {
    Call { id: "1".into(), name: name.into(), arguments: arguments.into() }
}

fn look(tool: &str, arguments: &Value) -> Look {
    if tool == "read_file" && !arguments["path"].is_string() {
        Look::Invalid("`path` is missing".into())
    } else {
        match arguments["program"].as_str() {
            Some("shutdown") => Look::Refuse("never".into()),
            Some("cargo-publish") => Look::Ask,
            Some(_) | None => Look::Fine,
        }
    }
}

struct Table {
    tools: Vec<Offered>,
    policy: Policy,
    history: History,
    protocol: Protocol,
    asks_person: bool,
}

impl Table {
    fn new(protocol: Protocol) -> Self {
        Self { tools: tools(), policy: policy(), history: History::default(), protocol, asks_person: false }
    }

    fn step(&mut self, text: &str, calls: &[Call]) -> Step {
        let rules =
            Rules { protocol: self.protocol, tools: &self.tools, policy: &self.policy, asks_person: self.asks_person };
        decide(Said { text, calls }, &rules, &mut self.history, look)
    }

    fn fate(&mut self, name: &str, arguments: &str) -> Fate {
        match self.step("", &[call(name, arguments)]) {
            Step::Tools(planned) | Step::NeedsApproval(planned) => planned[0].fate.clone(),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn every_outcome_has_its_answer() {
    let mut table = Table::new(Protocol::Native);
    assert_eq!(table.step("done", &[]), Step::Final("done".into()));
    assert_eq!(table.fate("read_file", r#"{"path":"a"}"#), Fate::Run);
    assert_eq!(table.fate("write_file", r#"{"path":"src/a"}"#), Fate::Run);
    assert!(matches!(table.fate("write_file", r#"{"path":"../a"}"#), Fate::Refuse { .. }));
    assert_eq!(table.fate("run_command", r#"{"program":"rm"}"#), Fate::Ask);
    assert!(matches!(table.fate("run_command", r#"{"program":"shutdown"}"#), Fate::Refuse { .. }));
    assert_eq!(table.fate("read_file", r#"{"path":"a","program":"cargo-publish"}"#), Fate::Ask);
    assert_eq!(table.fate("format_disk", "{}"), Fate::Unknown);
    let asked = table.step("", &[call(ASK_PERSON, r#"{"question":"which?"}"#)]);
    assert!(matches!(asked, Step::AskPerson(planned) if planned[0].fate == Fate::Ask));
    let to = |role: &str| call(HAND_OFF, &json!({"role": role}).to_string());
    assert!(matches!(table.step("", &[to("tester")]), Step::HandOff(planned) if planned[0].fate == Fate::Run));
    assert!(matches!(table.fate(HAND_OFF, r#"{"role":"root"}"#), Fate::Refuse { .. }));
    // A person decides on what stands beside it first.
    let both = table.step("", &[to("tester"), call("run_command", r#"{"program":"rm"}"#)]);
    assert!(matches!(both, Step::NeedsApproval(planned) if planned.len() == 2));
    let left = table.step("", &[call(GIVE_UP, r#"{"reason":"no"}"#)]);
    assert_eq!(left, Step::GiveUp { code: StopCode::GaveUp, reason: "no".into() });
}

#[test]
fn invalid_arguments_are_repaired_once() {
    let mut table = Table::new(Protocol::Native);
    let is_repair = |fate| matches!(fate, Fate::Invalid { is_repair: true, .. });
    assert!(is_repair(table.fate("read_file", "{}")));
    assert!(!is_repair(table.fate("read_file", r#"{"path":1}"#)));
    assert!(is_repair(table.fate("run_command", "not json")));
}

#[test]
fn the_same_call_thrice_in_a_row_is_stopped() {
    let mut table = Table::new(Protocol::Native);
    for _ in 0..2 {
        assert_eq!(table.fate("read_file", r#"{"path": "a", "from": 1}"#), Fate::Run);
    }
    // Other spaces and another order are the same arguments.
    let third = table.step("", &[call("read_file", r#"{"from":1,"path":"a"}"#)]);
    assert!(matches!(third, Step::GiveUp { code: StopCode::Repeated, .. }), "{third:?}");
    let mut table = Table::new(Protocol::Native);
    for path in ["a", "b", "a", "b", "a", "b"] {
        assert_eq!(table.fate("read_file", &json!({"path": path}).to_string()), Fate::Run);
    }
}

#[test]
fn a_person_who_wants_to_be_asked_is_asked_before_changes_only() {
    let mut table = Table::new(Protocol::Native);
    table.asks_person = true;
    assert_eq!(table.fate("read_file", r#"{"path":"a"}"#), Fate::Run);
    assert_eq!(table.fate("write_file", r#"{"path":"src/a"}"#), Fate::Ask);
    assert!(matches!(table.fate("write_file", r#"{"path":"a"}"#), Fate::Refuse { .. }));
}

#[test]
fn both_protocols_decide_the_same() {
    let mut native = Table::new(Protocol::Native);
    let mut action = Table::new(Protocol::Action);
    let arguments = json!({"path": "src/a"});
    let said = json!({"action": "write_file", "arguments": arguments}).to_string();
    let (Step::Tools(one), Step::Tools(two)) =
        (native.step("", &[call("write_file", &arguments.to_string())]), action.step(&said, &[]))
    else {
        panic!("both are calls");
    };
    assert_eq!((&one[0].digest, &one[0].fate), (&two[0].digest, &two[0].fate));
    // Native calls beside an action are not looked at.
    assert_eq!(action.step("text", &[call("run_command", "{}")]), Step::Final("text".into()));
}

#[test]
fn limits_stop_an_attempt() {
    let limits = Limits {
        steps_max: 2,
        tokens_max: Some(10),
        cost_max: Some(MicroUsd(5)),
        time_max: Some(Duration::from_secs(1)),
    };
    let none = Spent::default();
    assert_eq!(limits.reached(&none), None);
    assert_eq!(limits.reached(&Spent { steps: 2, ..none }), Some(Limit::Steps));
    assert_eq!(limits.reached(&Spent { tokens: 10, ..none }), Some(Limit::Tokens));
    assert_eq!(limits.reached(&Spent { cost: MicroUsd(5), ..none }), Some(Limit::Cost));
    assert_eq!(limits.reached(&Spent { time: Duration::from_secs(1), ..none }), Some(Limit::Time));
}

fn names() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "read_file",
        "write_file",
        "run_command",
        "delete_everything",
        "http_fetch",
        "read_file ",
        "READ_FILE",
        "git_commit",
    ]);
    prop_oneof![known.prop_map(str::to_owned), ".{0,12}"]
}

fn argument_texts() -> impl Strategy<Value = String> {
    let value =
        prop_oneof![Just("src/a"), Just("../a"), Just("/etc/passwd"), Just("src/../../a"), Just("cargo"), Just("rm")];
    let object =
        (value.clone(), value).prop_map(|(path, program)| json!({"path": path, "program": program}).to_string());
    prop_oneof![object, ".{0,40}"]
}

proptest! {
    #![proptest_config(crate::cases::cases(2_000))]

    /// Whatever is said, what comes out to be run was offered, passed its check and is allowed by a rule.
    #[test]
    fn nothing_outside_the_allow_list_comes_out_as_a_call(
        text in ".{0,80}",
        calls in prop::collection::vec((names(), argument_texts()), 0..24),
        is_action in any::<bool>(),
        wrapped in any::<bool>(),
    ) {
        let mut table = Table::new(if is_action { Protocol::Action } else { Protocol::Native });
        let all: Vec<Call> = calls.iter().map(|(name, arguments)| call(name, arguments)).collect();
        let text = match all.first().filter(|_| wrapped) {
            Some(first) => json!({"action": &*first.name, "arguments": &*first.arguments}).to_string(),
            None => text,
        };
        let step = table.step(&text, &all);
        let planned = match step {
            Step::Tools(planned)
            | Step::HandOff(planned)
            | Step::NeedsApproval(planned)
            | Step::AskPerson(planned) => planned,
            Step::Final(_) | Step::GiveUp { .. } => Vec::new(),
        };
        for it in planned {
            let is_offered = tools().iter().any(|tool| tool.name == it.call.name);
            let verdict = policy().decide(&it.call.name, &it.arguments).verdict;
            match it.fate {
                Fate::Run => {
                    prop_assert!(is_offered && look(&it.call.name, &it.arguments) == Look::Fine);
                    prop_assert_eq!(verdict, Verdict::Allow);
                    if &*it.call.name == "write_file" {
                        prop_assert!(it.arguments["path"].as_str().unwrap().starts_with("src"));
                    }
                    if &*it.call.name == "run_command" {
                        prop_assert_eq!(&it.arguments["program"], "cargo");
                    }
                }
                Fate::Ask => prop_assert!(is_offered && verdict == Verdict::Ask),
                Fate::Refuse { .. } | Fate::Unknown | Fate::Invalid { .. } | Fate::TooMany => {}
            }
        }
    }

    #[test]
    fn arguments_are_the_same_however_they_are_written(keys in prop::collection::btree_map("[a-c]{1,2}", 0..5_i32, 0..5)) {
        let there: Vec<String> = keys.iter().map(|(key, value)| format!("{key:?}: {value}")).collect();
        let back: Vec<String> = keys.iter().rev().map(|(key, value)| format!("{key:?}:{value}")).collect();
        let read = |parts: Vec<String>| serde_json::from_str::<Value>(&format!("{{{}}}", parts.join(","))).unwrap();
        prop_assert_eq!(digest("t", &read(there)), digest("t", &read(back)));
    }
}
