//! `models` and `registry diff|import`, from outside.

use crewline_testkit::{Script, StubReply, StubServer};
use serde_json::{Value, json};

use crate::app;

#[test]
fn a_check_asks_every_model_and_has_an_exit_code() {
    let server = StubServer::start(Script::default().on_model("strong", StubReply::status(401)));
    let app = app();
    app.registry(&server);
    let check = app.run(["models", "check", "-o", "json"]).expect_code(4);
    let all: Value = serde_json::from_str(&check.stdout).unwrap();
    assert_eq!((&all[0]["model"], &all[0]["ok"]), (&json!("cheap"), &json!(true)));
    assert!(all[0]["first_token_ms"].is_u64() && all[0]["text_bytes"].as_u64() > Some(0), "{all}");
    assert_eq!((&all[1]["ok"], &all[1]["error"]["code"]), (&json!(false), &json!("model.auth")));
    app.run(["models", "check", "cheap"]).expect_code(0);
    app.run(["models", "check", "chaep"]).expect_code(5);
    drop(server);
    app.run(["models", "check", "cheap"]).expect_code(6);
}

#[test]
fn local_servers_are_listed() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    let listed = app.run(["models", "ls", "-o", "json"]).expect_code(0);
    let rows: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(rows[0]["id"], "cheap");
    assert_eq!((&rows[0]["runtime"], &rows[0]["aliases"]), (&json!("other"), &json!(["cheap"])));
    let loaded = app.run(["models", "ps", "-o", "json"]).expect_code(0);
    let loaded: Value = serde_json::from_str(&loaded.stdout).unwrap();
    assert!(loaded["host"]["memory_bytes"].as_u64() > Some(0));
    let refused = app.run(["models", "load", "cheap"]).expect_code(3);
    assert!(refused.stderr.contains("model.unsupported"), "{}", refused.stderr);
    app.run(["models", "ls", "--provider", "nobody"]).expect_code(5);
}

#[test]
fn registries_are_compared_and_imported() {
    let server = StubServer::start(Script::default());
    let app = app();
    app.registry(&server);
    app.write("new.yaml", &server.registry().replace("input_per_million: 1.0", "input_per_million: 1.5"));
    app.run(["registry", "diff", "crewline.yaml"]).expect_code(0);
    let differs = app.run(["registry", "diff", "new.yaml", "-o", "json"]).expect_code(1);
    let differences: Value = serde_json::from_str(&differs.stdout).unwrap();
    let expected = json!([{"path": "models.cheap.price.input_per_million", "before": 1.0, "after": 1.5}]);
    assert_eq!(differences, expected);

    app.write(
        "litellm.yaml",
        "model_list:\n  - model_name: local\n    litellm_params: {model: ollama/qwen3:8b, rpm: 3, tags: [a]}\n    \
         model_info: {max_input_tokens: 8192}\n",
    );
    let imported = app.run(["registry", "import", "litellm.yaml"]).expect_code(0);
    assert!(imported.stderr.contains("`tags` is not carried over"), "{}", imported.stderr);
    assert!(imported.stdout.contains("limits: {rpm: 3}"), "{}", imported.stdout);
    app.write("imported.yaml", &imported.stdout);
    app.run(["registry", "check", "imported.yaml"]).expect_code(0);
    app.write("other.yaml", "a: 1\n");
    let refused = app.run(["registry", "import", "other.yaml"]).expect_code(3);
    assert!(refused.stderr.contains("registry.import"), "{}", refused.stderr);
}
