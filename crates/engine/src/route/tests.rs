//! The choice of models, case by case.

use std::time::Duration;

use crewline_types::{Complexity, Price, RouteWhen, model::Timeouts};

use super::*;

fn model(alias: &str, locality: Locality) -> Arc<ModelSpec> {
    let second = Duration::from_secs(1);
    Arc::new(ModelSpec {
        alias: alias.into(),
        provider: "stub".into(),
        context_window: 1_000,
        output_tokens_max: 200,
        has_json_schema: true,
        price: Some(Price { input_per_million: MicroUsd(1_000_000), output_per_million: MicroUsd(2_000_000) }),
        locality,
        timeouts: Timeouts { connect: second, first_token: second, idle: second, total: second },
        concurrency_max: None,
    })
}

fn aliases(decision: &Decision) -> Vec<&str> {
    decision.rungs.iter().map(|it| it.model.alias.as_str()).collect()
}

fn ask(role: &Role) -> Request<'_> {
    Request { role, kind: TaskKind::Atomic, input_tokens: 100, mode: Mode::Online, traits: &NO_TRAITS }
}

fn view<'a>(chain: &'a [Arc<ModelSpec>], health: &'a dyn Fn(&ModelAlias) -> Health) -> View<'a> {
    View { chain, health, remaining: None, learned: None, rules: &[], is_loaded: NOBODY_KNOWS }
}

static NO_TRAITS: Traits = Traits { complexity: Complexity::MIN, tags: Vec::new() };

const UP: &dyn Fn(&ModelAlias) -> Health = &|_| Health::Up;

#[test]
fn the_chain_keeps_its_order_and_the_down_go_last() {
    let role = Role::from("writer");
    let chain = ["a", "b", "c"].map(|it| model(it, Locality::Remote));
    let decision = choose(&ask(&role), &view(&chain, UP));
    assert_eq!(aliases(&decision), ["a", "b", "c"]);
    assert_eq!((decision.rungs[0].reason, decision.rungs[1].reason), (Reason::First, Reason::Next));
    let sick = |alias: &ModelAlias| match alias.as_str() {
        "a" => Health::Down { reason: "too many failures" },
        _ => Health::Up,
    };
    let decision = choose(&ask(&role), &view(&chain, &sick));
    assert_eq!(aliases(&decision), ["b", "c", "a"]);
    assert!(decision.rungs[2].reason.to_string().starts_with("too many failures"));
    let decision = choose(&ask(&role), &view(&chain, &|_| Health::Down { reason: "down" }));
    assert_eq!(aliases(&decision), ["a", "b", "c"]);
    assert!(decision.skipped.is_empty());
}

#[test]
fn offline_drops_what_is_remote() {
    let role = Role::from("writer");
    let chain = [model("far", Locality::Remote), model("near", Locality::Private), model("here", Locality::Loopback)];
    let offline = Request { mode: Mode::Offline, ..ask(&role) };
    let decision = choose(&offline, &view(&chain, UP));
    assert_eq!(aliases(&decision), ["near", "here"]);
    assert_eq!(decision.skipped[0].alias.as_str(), "far");
    assert!(decision.skipped[0].reason.to_string().contains("offline"));
    // Even when nothing else is up.
    assert!(choose(&offline, &view(&chain[..1], UP)).rungs.is_empty());
}

#[test]
fn a_prompt_that_does_not_fit_is_not_sent() {
    let role = Role::from("writer");
    let chain = [model("small", Locality::Remote)];
    assert_eq!(choose(&Request { input_tokens: 800, ..ask(&role) }, &view(&chain, UP)).rungs.len(), 1);
    let decision = choose(&Request { input_tokens: 801, ..ask(&role) }, &view(&chain, UP));
    assert!(decision.rungs.is_empty());
    assert!(decision.skipped[0].reason.to_string().contains("leaves 800"), "{}", decision.skipped[0].reason);
}

#[test]
fn what_is_left_decides_who_comes_last() {
    let role = Role::from("writer");
    let mut dear = (*model("dear", Locality::Remote)).clone();
    dear.price = dear.price.map(|it| Price { output_per_million: MicroUsd(1_000_000_000), ..it });
    let mut unknown = (*model("unknown", Locality::Remote)).clone();
    unknown.price = None;
    let chain = [Arc::new(dear), Arc::new(unknown), model("cheap", Locality::Remote)];
    let capped = View { remaining: Some(MicroUsd(10_000)), ..view(&chain, UP) };
    let decision = choose(&ask(&role), &capped);
    assert_eq!(aliases(&decision), ["cheap", "dear", "unknown"]);
    assert_eq!(
        decision.rungs[1].reason.to_string(),
        "a call may cost $0.200100, and $0.010000 is left",
        "{decision:?}"
    );
    assert_eq!(aliases(&choose(&ask(&role), &view(&chain, UP))), ["dear", "unknown", "cheap"]);
}

#[test]
fn a_rung_that_is_no_use_is_left_out_until_all_others_failed() {
    let role = Role::from("writer");
    let mut chain = ["a", "b", "c"].map(|it| model(it, Locality::Remote)).map(|it| (*it).clone());
    for (place, model) in chain.iter_mut().enumerate() {
        let micros = MicroUsd(1_000_000 * 5_u64.pow(u32::try_from(place).unwrap()));
        model.price = Some(Price { input_per_million: micros, output_per_million: micros });
    }
    let chain = chain.map(Arc::new);
    let mut learned = Learned::default();
    learned.add(&role, TaskKind::Atomic, &"a".into(), Tally { accepted: 2, rejected: 300 });
    learned.add(&role, TaskKind::Atomic, &"b".into(), Tally { accepted: 280, rejected: 22 });
    let decision = choose(&ask(&role), &View { learned: Some(&learned), ..view(&chain, UP) });
    assert_eq!(aliases(&decision), ["b", "c", "a"]);
    assert_eq!(decision.rungs[0].reason.to_string(), "starting here costs least: 280 of 302 answers accepted");
    assert!(decision.rungs[2].reason.to_string().starts_with("below the start: 2 of 302"));
    // Another kind of task, another table.
    let other = Request { kind: TaskKind::Synthesis, ..ask(&role) };
    assert_eq!(aliases(&choose(&other, &View { learned: Some(&learned), ..view(&chain, UP) })), ["a", "b", "c"]);
    // Without prices the order of the chain is what is known of costs.
    let unpriced = chain.map(|it| Arc::new(ModelSpec { price: None, ..(*it).clone() }));
    assert_eq!(aliases(&choose(&ask(&role), &View { learned: Some(&learned), ..view(&unpriced, UP) }))[0], "b");
}

#[test]
fn the_worst_cost_takes_the_longest_answer() {
    assert_eq!(worst_cost(&model("a", Locality::Remote), 100), Some(MicroUsd(500)));
}

#[test]
fn a_prompt_that_is_too_long_goes_to_a_larger_window() {
    let sized = |alias: &str, context_window: u32| {
        let base = model(alias, Locality::Remote);
        Arc::new(ModelSpec { context_window, ..ModelSpec::clone(&base) })
    };
    let failed = sized("failed", 1_000);
    let mut left = [sized("same", 1_000), sized("large", 9_000), sized("small", 500), sized("larger", 90_000)];
    after_overflow(&mut left, &failed);
    let order: Vec<&str> = left.iter().map(|it| it.alias.as_str()).collect();
    assert_eq!(order, ["large", "larger", "same", "small"], "cheap to dear among those that may take it");
}

fn rule(when: RouteWhen, start: Option<&str>, without: &[&str]) -> RouteRule {
    RouteRule {
        when,
        start: start.map(ModelAlias::from),
        without: without.iter().map(|it| ModelAlias::from(*it)).collect(),
    }
}

#[test]
fn the_first_rule_that_holds_decides_where_the_chain_begins() {
    let role = Role::from("writer");
    let chain = ["a", "b", "c"].map(|it| model(it, Locality::Remote));
    let hard = RouteWhen { complexity_min: Some(Complexity::new(60)), ..RouteWhen::default() };
    let tagged = RouteWhen { tags: vec!["legal".into()], ..RouteWhen::default() };
    let long = RouteWhen { tokens_min: Some(100), ..RouteWhen::default() };
    let rules = [rule(hard, Some("c"), &[]), rule(tagged, None, &["a", "b"]), rule(long, Some("b"), &["a"])];
    let decide = |score: u8, tag: &str, tokens: u32| {
        let traits = Traits { complexity: Complexity::new(score), tags: vec![tag.to_owned()] };
        let request = Request { traits: &traits, input_tokens: tokens, ..ask(&role) };
        choose(&request, &View { rules: &rules, ..view(&chain, UP) })
    };
    let decision = decide(60, "legal", 200);
    assert_eq!(aliases(&decision), ["c", "a", "b"]);
    assert_eq!(decision.rungs[0].reason.to_string(), "rule 1 of the role starts here");
    assert_eq!(decision.rungs[1].reason, Reason::BelowRule { number: 1 });
    let decision = decide(59, "legal", 200);
    assert_eq!((aliases(&decision), decision.skipped.len()), (vec!["c"], 2));
    assert_eq!(decision.skipped[0].reason.to_string(), "rule 2 of the role leaves it out");
    assert_eq!(aliases(&decide(0, "", 100)), ["b", "c"]);
    assert_eq!(aliases(&decide(0, "", 99)), ["a", "b", "c"]);
    // A rule that starts at a model which is down does not hold the task up.
    let sick = |alias: &ModelAlias| match alias.as_str() {
        "c" => Health::Down { reason: "down" },
        _ => Health::Up,
    };
    let traits = Traits { complexity: Complexity::new(90), tags: Vec::new() };
    let request = Request { traits: &traits, ..ask(&role) };
    let decision = choose(&request, &View { rules: &rules, ..view(&chain, &sick) });
    assert_eq!(aliases(&decision), ["a", "b", "c"]);
}

#[test]
fn a_loaded_local_model_goes_before_one_that_costs_as_much_and_is_not() {
    let role = Role::from("writer");
    let dear = Arc::new(ModelSpec { price: None, ..(*model("dear", Locality::Loopback)).clone() });
    let chain =
        [model("small", Locality::Loopback), model("far", Locality::Remote), dear, model("big", Locality::Loopback)];
    let with =
        |is_loaded: &dyn Fn(&ModelAlias) -> Option<bool>| choose(&ask(&role), &View { is_loaded, ..view(&chain, UP) });
    let decision = with(&|alias| Some(alias.as_str() != "small"));
    assert_eq!(aliases(&decision), ["big", "small", "far", "dear"], "one of another price does not go first");
    assert_eq!((decision.rungs[0].reason, decision.rungs[1].reason), (Reason::Loaded, Reason::Unloaded));
    for known in [Some(true), None] {
        assert_eq!(aliases(&with(&|_| known)), ["small", "far", "dear", "big"]);
    }
    assert_eq!(aliases(&with(&|_| Some(false))), ["small", "far", "dear", "big"], "none is loaded");
}
