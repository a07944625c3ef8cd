//! One `check(input, expect)` for everything a registry can get wrong.

use std::{num::NonZeroU32, time::Duration};

use super::*;

const MINIMAL: &str = r#"version: 1
providers:
  stub: {type: openai_compatible, base_url: "http://127.0.0.1:9100/v1"}
models:
  cheap:  {provider: stub, model: cheap,  context_window: 32768, price: {input_per_million: 1.0, output_per_million: 2.0}}
  strong: {provider: stub, model: strong, context_window: 32768, price: {input_per_million: 5.0, output_per_million: 15.0}}
roles:
  default: {chain: [cheap, strong]}
  manager: {chain: [cheap, strong]}
"#;

fn no_env(_: &str) -> Option<String> {
    None
}

fn parse(text: &str) -> Result<Registry, Invalid> {
    Registry::parse(text, "crewline.yaml", &no_env)
}

/// The problems of a text, one a line.
fn problems(text: &str) -> String {
    let error = parse(text).expect_err("it is valid");
    for problem in &error.problems {
        assert!(problem.span.end <= error.source.len() && problem.line >= 1 && problem.column >= 1, "{problem:?}");
    }
    error.to_string()
}

/// Replaces a part of the minimal file and expects exactly these beginnings of problems.
#[track_caller]
fn check(from: &str, to: &str, expected: &[&str]) {
    let text = MINIMAL.replacen(from, to, 1);
    assert!(from == to || text != MINIMAL, "`{from}` is not in the file");
    check_text(&text, expected);
}

#[track_caller]
fn check_text(text: &str, expected: &[&str]) {
    let found = problems(text);
    let lines: Vec<&str> = found.lines().collect();
    let fits = lines.len() == expected.len()
        && lines
            .iter()
            .zip(expected)
            .all(|(line, it)| line.strip_prefix("crewline.yaml:").is_some_and(|line| line.starts_with(it)));
    assert!(fits, "found:\n{found}\nexpected:\n{}", expected.join("\n"));
}

#[test]
fn the_minimal_file_works_as_it_stands() {
    let registry = parse(MINIMAL).unwrap();
    let names = |role: &str| registry.chain(&role.into()).iter().map(|it| it.alias.to_string()).collect::<Vec<_>>();
    assert_eq!(names("manager"), ["cheap", "strong"]);
    assert_eq!(names("nobody"), ["cheap", "strong"]);
    let cheap = registry.model("cheap").unwrap();
    assert_eq!((cheap.context_window, cheap.output_tokens_max), (32_768, 4_096));
    assert_eq!(cheap.locality, Locality::Loopback);
    assert!(cheap.has_json_schema);
    assert_eq!(cheap.price.unwrap().of_tokens(1_000_000, 1_000_000).to_string(), "$3.000000");
    assert_eq!(cheap.timeouts.first_token, Duration::from_mins(1));
    let config = registry.config("strong").unwrap();
    assert!(!config.provider.is_streaming && !config.provider.has_key());
    assert_eq!(registry.roles().iter().map(Role::as_str).collect::<Vec<_>>(), SHIPPED_ROLES);
    assert!(registry.instructions(&"coder".into()).unwrap().contains("code"));
    assert_eq!(registry.instructions(&"poet".into()), None);
    assert_eq!((registry.policies().attempts_max, registry.policies().plan_tasks_max), (2, 8));
    assert_eq!(registry.hash(), TextHash::of(MINIMAL));
    assert_eq!(registry.models().map(|it| it.spec.alias.as_str()).collect::<Vec<_>>(), ["cheap", "strong"]);
    assert!(registry.warnings().is_empty());
}

#[test]
fn everything_a_file_can_say() {
    let text = r#"
version: 1
providers:
  cloud: {type: openai_compatible, base_url: "https://api.openai.com/v1/", api_key: "env:KEY", headers: {X-Title: crewline, x-api-key: "env:KEY"}, stream: true}
  local: {type: openai_compatible, managed: {command: [server, --port, "{port}", -m, "{model}"], model: "{data_dir}/m.gguf", health: /healthz, start_timeout: 90}}
models:
  big: {provider: cloud, model: gpt, context_window: 8192, output_tokens_max: 100, capabilities: [tools], timeouts: {connect: 500ms, total: 1h}, limits: {concurrency: 3, rpm: 60, tpm: 90000}, params: {top_p: 0.5, stop: [a]}, temperature: 1}
  small: {provider: local, model: m, context_window: 1000}
roles:
  default: {chain: [small, big], instructions: "Be brief."}
  poet: {slots: 2, temperature: 0.9, output_tokens_max: 64}
  coder: {chain: [big], instructions: "Write Rust."}
policies: {attempts_max: 3, plan_tasks_max: 20, retry: {delay: 1s, delay_max: 2s}}
"#;
    let env = |name: &str| (name == "KEY").then(|| "sk-topsecret".to_owned());
    let registry = Registry::parse(text, "all.yaml", &env).unwrap();
    let big = registry.config("big").unwrap();
    assert_eq!(big.provider.base_url, "https://api.openai.com/v1");
    assert!(big.provider.has_key() && big.provider.is_streaming && big.has_tools && !big.spec.has_json_schema);
    assert_eq!(big.spec.locality, Locality::Remote);
    assert_eq!(
        (big.spec.timeouts.connect, big.spec.timeouts.total),
        (Duration::from_millis(500), Duration::from_hours(1))
    );
    assert_eq!((big.spec.concurrency_max, big.temperature), (Some(3), Some(1.0)));
    let rates = (big.rates.requests.map(NonZeroU32::get), big.rates.tokens.map(NonZeroU32::get));
    assert_eq!(rates, (Some(60), Some(90_000)));
    let small = registry.config("small").unwrap();
    assert_eq!((small.spec.output_tokens_max, small.spec.price), (250, None));
    assert_eq!(small.provider.managed.as_ref().unwrap().start_timeout, Duration::from_secs(90));
    assert_eq!(registry.slots(&"poet".into()), Some(2));
    assert_eq!(registry.temperature(&"poet".into()), Some(0.9));
    assert_eq!(registry.output_tokens_max(&"poet".into()), Some(64));
    assert_eq!(registry.chain(&"poet".into()).len(), 2);
    assert_eq!(registry.instructions(&"poet".into()), Some("Be brief."));
    assert_eq!(registry.instructions(&"coder".into()), Some("Write Rust."));
    assert_eq!(registry.roles()[..2], [Role::from("poet"), Role::from("coder")]);
    let debug = format!("{registry:?} {:?}", registry.providers().collect::<Vec<_>>());
    assert!(!debug.contains("topsecret"), "{debug}");
}

#[test]
fn unknown_keys_are_named_with_the_nearest() {
    check(
        "price:",
        "prcie:",
        &["5:66: unknown key `prcie` in `models.cheap` (did you mean `price`? allowed here: `provider`, `model`, "],
    );
    check(
        "version: 1\n",
        "version: 1\nextras: 1\n",
        &[
            "2:1: unknown key `extras` (allowed here: `version`, `providers`, `models`, `roles`, `mcp_servers`, `policies`)",
        ],
    );
}

#[test]
fn repeated_keys_are_refused() {
    check(
        "  strong:",
        "  cheap:",
        &[
            "6:3: `models.cheap` is there twice (the first one is in line 5; keep one)",
            "8:28: there is no model `strong`",
            "9:28: there is no model `strong`",
        ],
    );
    check("version: 1\n", "version: 1\nversion: 1\n", &["2:1: `version` is there twice"]);
}

#[test]
fn wrong_types_say_what_is_wanted() {
    check(
        "32768",
        "\"32768\"",
        &["5:59: `models.cheap.context_window` must be a whole number, not text (write the number without quotes)"],
    );
    check("32768", "3.5", &["5:59: `models.cheap.context_window` must be a whole number, not a number"]);
    check("32768", "-1", &["5:59: `models.cheap.context_window` is -1, which is out of range (allowed: 1 and above)"]);
    check("32768", "0", &["5:59: `models.cheap.context_window` is 0, which is out of range"]);
    check("32768", "99999999999", &["5:59: `models.cheap.context_window` is 99999999999, which is out of range"]);
    check(
        "model: cheap,",
        "model: 4,",
        &["5:35: `models.cheap.model` must be text, not a whole number (put it in quotes)"],
    );
    check(
        "[cheap, strong]",
        "cheap",
        &["8:20: `roles.default.chain` must be a list, not text (write it as a list: `chain: [ … ]`)"],
    );
    check(
        "openai_compatible",
        "openai",
        &[
            "3:16: `providers.stub.type` has the unknown value `openai` (allowed: `openai_compatible`, `openai_responses`, `anthropic`, `ollama`)",
        ],
    );
    check(
        "price: {input_per_million: 1.0",
        "price: {input_per_million: -1.0",
        &["5:93: `models.cheap.price.input_per_million` is -1.0, which is out of range (allowed: 0 and above)"],
    );
    check(
        "context_window: 32768,",
        "context_window: 32768, timeouts: {total: soon},",
        &["5:84: `models.cheap.timeouts.total` is not a duration above zero (a duration is written"],
    );
    check(
        "context_window: 32768,",
        "context_window: 32768, timeouts: {total: 0},",
        &["5:84: `models.cheap.timeouts.total` must be above 0"],
    );
    check(
        "context_window: 32768,",
        "context_window: 32768, limits: {concurrency: 0},",
        &["5:88: `models.cheap.limits.concurrency` is 0, which is out of range"],
    );
    check(
        "context_window: 32768,",
        "context_window: 32768, capabilities: [fly],",
        &[
            "5:81: `models.cheap.capabilities[0]` has the unknown value `fly` (allowed: `json_schema`, `tools`, `vision`, `reasoning`)",
        ],
    );
}

#[test]
fn missing_keys_say_what_they_are_for() {
    check(
        "provider: stub, model: cheap, ",
        "model: cheap, ",
        &["5:3: `models.cheap` lacks `provider` (add `provider:`; The name of its provider in this file.)"],
    );
    check("version: 1\n", "", &["1:1: the file lacks `version`"]);
    check(
        "{type: openai_compatible, base_url: \"http://127.0.0.1:9100/v1\"}",
        "{type: openai_compatible}",
        &["3:3: `providers.stub` lacks `base_url`"],
    );
    check("  default: {chain: [cheap, strong]}\n", "", &["7:1: `roles` lacks `default`"]);
    check("  default: {chain: [cheap, strong]}\n", "  default: {}\n", &["8:3: `roles.default` lacks `chain`"]);
}

#[test]
fn references_are_checked() {
    check(
        "provider: stub, model: cheap",
        "provider: stubb, model: cheap",
        &["5:22: there is no provider `stubb` (did you mean `stub`? there are `stub`)"],
    );
    check(
        "chain: [cheap, strong]",
        "chain: [cheap, stron]",
        &["8:28: there is no model `stron` (did you mean `strong`? there are `cheap`, `strong`)"],
    );
    check(
        "chain: [cheap, strong]",
        "chain: []",
        &["8:20: `roles.default.chain` is empty (models from cheap to expensive, as `chain: [cheap]`)"],
    );
    check(
        "chain: [cheap, strong]",
        "chain: [cheap, cheap]",
        &["8:28: model `cheap` is twice in the chain of `default`"],
    );
}

#[test]
fn values_are_checked() {
    check("version: 1", "version: 2", &["1:10: `version` is 2, which is out of range (allowed: 1 to 1)"]);
    for (url, expected) in [
        ("nonsense", "3:45: `providers.stub.base_url` is not a URL"),
        ("ftp://host/v1", "3:45: `providers.stub.base_url` must begin with `http://` or `https://`"),
        ("http://user:pw@host/v1", "3:45: `providers.stub.base_url` holds a user name or password"),
        ("http://host/v1?key=x", "3:45: `providers.stub.base_url` has a `?` or `#` part"),
        (
            "http://host/v1/chat/completions",
            "3:45: `providers.stub.base_url` ends in `/chat/completions`, which is added to it",
        ),
        ("http://host:{port}/v1", "3:45: `providers.stub.base_url` has `{port}`, but the server is not managed"),
    ] {
        check("http://127.0.0.1:9100/v1", url, &[expected]);
    }
    check(
        "context_window: 32768,",
        "context_window: 100, output_tokens_max: 100,",
        &["5:83: `models.cheap.output_tokens_max` leaves no room for a prompt"],
    );
    check(
        "context_window: 32768,",
        "context_window: 1,",
        &["5:59: `models.cheap.output_tokens_max` leaves no room for a prompt"],
    );
    check(
        "context_window: 32768,",
        "context_window: 32768, params: {stream: true},",
        &["5:75: `stream` is set by crewline itself"],
    );
    check(
        "cheap:  {",
        "\"che ap\":  {",
        &[
            "5:3: the name in `models` has a character that is not allowed",
            "8:21: there is no model `cheap`",
            "9:21: there is no model `cheap`",
        ],
    );
}

#[test]
fn all_problems_come_at_once() {
    let text = r#"version: 1
provider: {}
providers:
  a: {type: openai_compatible, base_url: ftp://x}
  b: {type: openai_compatible, base_url: "http://127.0.0.1:1/v1", api_key: "env:NOPE"}
models:
  m: {provider: c, model: m, context_window: 0}
  n: {provider: b, model: n, context_window: 100, colour: red}
roles:
  default: {chain: [n, o]}
"#;
    check_text(
        text,
        &[
            "2:1: unknown key `provider` (did you mean `providers`?",
            "4:42: `providers.a.base_url` must begin with",
            "5:76: `env:NOPE` is not set (`export NOPE=…` before you start crewline, or use `file:PATH`)",
            "7:46: `models.m.context_window` is 0",
            "8:51: unknown key `colour` in `models.n`",
            "10:24: there is no model `o` (did you mean `m`? there are `m`, `n`)",
        ],
    );
}

#[test]
fn a_key_in_clear_is_refused_and_blanked() {
    for to in [
        "api_key: sk-topsecret, base_url:",
        "api_key: \"sk-topsecret\", base_url:",
        "headers: {Authorization: Bearer sk-topsecret}, base_url:",
    ] {
        let text = MINIMAL.replacen("base_url:", to, 1);
        let error = parse(&text).unwrap_err();
        assert_eq!(error.source.len(), text.len());
        let shown = format!("{error} {error:?} {}", error.source);
        assert!(!shown.contains("topsecret"), "{shown}");
        assert!(shown.contains("in clear"), "{shown}");
    }
    // Also when the file is broken elsewhere, or the key is on its own lines.
    let broken = "providers:\n  a:\n    api_key: sk-topsecret\n  b: [\n";
    assert!(!parse(broken).unwrap_err().source.contains("topsecret"));
    let folded = MINIMAL.replacen("  stub: {type", "  x:\n    type: openai_compatible\n    base_url: http://h/v1\n    api_key: >-\n      sk-topsecret\n  stub: {type", 1);
    let error = parse(&folded).unwrap_err();
    assert!(!error.source.contains("topsecret"), "{}", error.source);
}

#[test]
fn a_missing_key_stops_only_what_needs_it() {
    let unused = MINIMAL.replacen("models:\n", "  cloud: {type: openai_compatible, base_url: https://x.test/v1, api_key: env:CLOUD}\nmodels:\n  far: {provider: cloud, model: far, context_window: 1000}\n", 1);
    let registry = parse(&unused).unwrap();
    assert_eq!(registry.warnings().len(), 1);
    assert_eq!(registry.warnings()[0].message, "`env:CLOUD` is not set");
    assert!(registry.config("far").unwrap().provider.key_problem().is_some());
    let used = unused.replacen("[cheap, strong]", "[cheap, far]", 1);
    assert!(problems(&used).contains("`env:CLOUD` is not set"));
    let empty = |_: &str| Some("  ".to_owned());
    assert!(Registry::parse(&used, "x", &empty).unwrap_err().to_string().contains("`env:CLOUD` is empty"));
    let broken = |_: &str| Some("a\nb".to_owned());
    assert!(Registry::parse(&used, "x", &broken).unwrap_err().to_string().contains("line break"));
}

#[test]
fn managed_servers_are_checked() {
    let with = |managed: &str| MINIMAL.replacen("base_url: \"http://127.0.0.1:9100/v1\"", managed, 1);
    assert!(parse(&with("managed: {command: [s, \"{port}\", '{\"a\": 1}']}")).is_ok());
    for (managed, expected) in [
        ("managed: {command: []}", "`providers.stub.managed.command` is empty"),
        ("managed: {command: [s]}", "`providers.stub.managed.command` lacks `{port}`"),
        ("managed: {command: [s, \"{port}\", \"{model}\"]}", "has `{model}`, but there is no `model`"),
        ("managed: {command: [s, \"{prot}\", \"{port}\"]}", "unknown placeholder `{prot}` (did you mean `{port}`?"),
        ("base_url: \"http://127.0.0.1:1/v1\", managed: {command: [s, \"{port}\"]}", "must contain `{port}`"),
        ("base_url: \"http://example.com:{port}/v1\", managed: {command: [s, \"{port}\"]}", "must be on this machine"),
        ("managed: {command: [s, \"{port}\"], health: x}", "must begin with `/`"),
    ] {
        let found = problems(&with(managed));
        assert!(found.contains(expected) && found.lines().count() == 1, "{managed}: {found}");
    }
}

#[test]
fn what_is_not_a_registry() {
    check_text("", &["1:1: the file is empty (`crewline init` writes"]);
    check_text("# only a comment\n\n", &["1:1: the file is empty"]);
    check_text("- a\n- b\n", &["1:1: the file must be a map, not a list"]);
    check_text("hello\n", &["1:1: the file must be a map, not text"]);
    let tabs = problems("version: 1\nproviders:\n\tstub: {}\n");
    assert!(tabs.starts_with("crewline.yaml:3:") && tabs.contains("tab"), "{tabs}");
    assert!(problems("version: 1\nproviders: [\n").contains("not valid YAML"));
    assert!(problems("version: 1\n---\nversion: 1\n").contains("not valid YAML"));
    assert!(problems(&format!("# {}", "x".repeat(2 << 20))).contains("larger than 1024 KiB"));
}

#[test]
fn aliases_of_yaml_work() {
    let text = MINIMAL.replacen(
        "  default: {chain: [cheap, strong]}\n  manager: {chain: [cheap, strong]}",
        "  default: {chain: &all [cheap, strong]}\n  manager: {chain: *all}",
        1,
    );
    assert_eq!(parse(&text).unwrap().chain(&Role::manager()).len(), 2);
}

#[test]
fn files_are_read_beside_the_registry() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crewline.yaml");
    std::fs::write(folder.path().join("key"), "sk-topsecret\n").unwrap();
    std::fs::write(folder.path().join("poet.md"), "Rhyme.\n").unwrap();
    let text = MINIMAL.replacen("base_url:", "api_key: \"file:key\", base_url:", 1).replacen(
        "roles:\n",
        "roles:\n  poet: {instructions_file: poet.md}\n",
        1,
    );
    std::fs::write(&path, &text).unwrap();
    let registry = Registry::load(&path, &no_env).unwrap();
    assert!(registry.config("cheap").unwrap().provider.has_key());
    assert_eq!(registry.instructions(&"poet".into()), Some("Rhyme."));

    std::fs::write(&path, text.replacen("file:key", "file:none", 1).replacen("poet.md", "none.md", 1)).unwrap();
    let error = Registry::load(&path, &no_env).unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("`file:none` cannot be read") && shown.contains("`none.md` cannot be read"), "{shown}");
    assert_eq!((error.code(), error.kind()), ("registry.invalid", ErrorKind::Invalid));

    std::fs::write(&path, b"version: 1\nx: \xff\n").unwrap();
    let shown = Registry::load(&path, &no_env).unwrap_err().to_string();
    assert!(shown.contains(":2:4: the file is not UTF-8 here"), "{shown}");

    let missing = Registry::load(&folder.path().join("none.yaml"), &no_env).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.hint().unwrap().contains("crewline init"));
}

#[test]
fn the_schema_accepts_what_the_check_accepts() {
    let schema = json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let minimal = spans::parse(MINIMAL).unwrap().to_json();
    assert!(validator.is_valid(&minimal));
    let mut wrong = minimal.clone();
    wrong["models"]["cheap"]["prcie"] = 1.into();
    assert!(!validator.is_valid(&wrong));
    let mut timed = minimal;
    timed["models"]["cheap"]["timeouts"] = serde_json::json!({"total": "1h30m", "idle": 5});
    assert!(validator.is_valid(&timed));
    timed["models"]["cheap"]["timeouts"]["idle"] = "soon".into();
    assert!(!validator.is_valid(&timed));
}

#[test]
fn the_example_is_valid() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/crewline.yaml");
    let env = |_: &str| Some("key".to_owned());
    let registry = Registry::load(&path, &env).unwrap_or_else(|error| panic!("{error}"));
    assert!(registry.warnings().is_empty(), "{:?}", registry.warnings());
}

#[test]
fn damaged_files_never_panic() {
    let full = MINIMAL.replacen("price:", "timeouts: {total: 1h}, params: {a: [1]}, price:", 1);
    for at in (0..full.len()).step_by(5) {
        let _ = parse(&full[..at]);
        for junk in ["\t", "\"", ": ", "{", "]", "&a", "*a", "\u{0}", "ü", "- "] {
            let mut text = full.clone();
            text.insert_str(at, junk);
            if let Err(error) = parse(&text) {
                assert!(!error.problems.is_empty() && error.source.len() == text.len(), "{text}");
            }
        }
    }
}

#[test]
fn every_type_has_its_address() {
    for (kind, address, written) in [
        ("anthropic", "https://api.anthropic.com/v1", ""),
        ("openai_responses", "https://api.openai.com/v1", ""),
        ("ollama", "http://127.0.0.1:11434", ""),
        ("ollama", "http://gpu.lan:11434", "base_url: \"http://gpu.lan:11434/\""),
    ] {
        let text = format!(
            "version: 1\nproviders:\n  p: {{type: {kind}, {written}}}\nmodels:\n  m: {{provider: p, model: m, context_window: 1000}}\n\
             roles:\n  default: {{chain: [m]}}\n"
        );
        let registry = Registry::parse(&text, "test", &|_| None).unwrap();
        assert_eq!(registry.providers().next().unwrap().base_url, address);
    }
    for (kind, address, end) in [
        ("anthropic", "https://api.anthropic.com/v1/messages", "/messages"),
        ("openai_responses", "https://api.openai.com/v1/responses", "/responses"),
        ("ollama", "http://127.0.0.1:11434/v1", "/v1"),
        ("ollama", "http://127.0.0.1:11434/api", "/api"),
    ] {
        let text = format!(
            "version: 1\nproviders:\n  p: {{type: {kind}, base_url: \"{address}\"}}\nmodels:\n  \
             m: {{provider: p, model: m, context_window: 1000}}\nroles:\n  default: {{chain: [m]}}\n"
        );
        let error = Registry::parse(&text, "test", &|_| None).unwrap_err().to_string();
        assert!(error.contains(&format!("ends in `{end}`, which is added to it")), "{error}");
    }
}
