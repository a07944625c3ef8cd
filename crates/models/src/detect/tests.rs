//! What is found, and the registry that is written from it.

use super::*;
use crate::Registry;

fn parse(found: &Found) -> Registry {
    let text = registry_yaml(found).unwrap();
    Registry::parse(&text, "new.yaml", &|_| Some("key".into())).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn server(kind: ServerKind, models: &[(&str, Option<u32>)]) -> ServerFound {
    let models = models.iter().map(|(id, window)| ListedModel { id: (*id).into(), context_window: *window });
    ServerFound {
        kind,
        base_url: format!("http://127.0.0.1:{}{}", kind.port(), kind.protocol().1),
        models: models.collect(),
    }
}

fn parts() -> ManagedParts {
    ManagedParts {
        command: ["python3", "/data/runtime/llama_server.py", "--model", "{model}", "--port", "{port}"]
            .map(Into::into)
            .into(),
        model: "/data/models/smol/model.gguf".into(),
        name: "smol".into(),
        context_window: 4_096,
        parallel: 2,
    }
}

#[test]
fn nothing_makes_no_registry() {
    assert_eq!(registry_yaml(&Found::default()), None);
    let empty = server(ServerKind::Ollama, &[("nomic-embed-text:latest", None)]);
    assert_eq!(registry_yaml(&Found { servers: vec![empty], ..Found::default() }), None);
}

#[test]
fn everything_makes_a_valid_registry() {
    let found = Found {
        keys: KeyFound::ALL.into(),
        servers: vec![
            server(
                ServerKind::Ollama,
                &[("qwen2.5:7b", None), ("nomic-embed-text", None), ("true", None), ("Ü \"x\"", None)],
            ),
            server(ServerKind::Vllm, &[("org/qwen2.5-7b", Some(32_768))]),
        ],
        managed: Some(parts()),
        data_dir: "/data".into(),
    };
    let registry = parse(&found);
    let chain: Vec<_> = registry.chain(&"anything".into()).iter().map(|it| it.alias.to_string()).collect();
    assert_eq!(
        chain,
        [
            "qwen2.5-7b",
            "true",
            "---x-",
            "qwen2.5-7b-2",
            "gpt-4.1-mini",
            "gpt-4.1",
            "claude-haiku-4-5",
            "claude-sonnet-4-5",
            "gpt-4.1-mini-2",
            "claude-sonnet-4.5"
        ]
    );
    assert_eq!(registry.model("qwen2.5-7b-2").unwrap().context_window, 32_768);
    assert_eq!(registry.config("---x-").unwrap().model, "Ü \"x\"");
    assert!(registry.model("local").is_none(), "the very small model stays out when there is a better one");
}

#[test]
fn the_local_model_alone() {
    let registry = parse(&Found { managed: Some(parts()), data_dir: "/data".into(), ..Found::default() });
    let model = registry.config("local").unwrap();
    assert_eq!(model.spec.locality, Locality::Loopback);
    assert_eq!(model.spec.price.unwrap().of_tokens(1_000, 1_000).0, 0);
    assert_eq!(model.spec.timeouts.total, Duration::from_mins(10));
    assert_eq!((registry.policies().plan_tasks_min, registry.policies().plan_tasks_max), (3, 4));
    let managed = model.provider.managed.as_ref().unwrap();
    assert_eq!(managed.model.as_deref(), Some("{data_dir}/models/smol/model.gguf"));
    assert_eq!(managed.command[1], "{data_dir}/runtime/llama_server.py");
    assert!(model.provider.is_streaming);
}

#[tokio::test]
async fn silent_ports_are_no_servers() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = listener.local_addr().unwrap().port();
    let closed = crewline_testkit::client::free_port().unwrap();
    assert_eq!(servers([(ServerKind::Vllm, silent), (ServerKind::Ollama, closed)]).await, []);
}
