//! What the tools do, through a toolbox, as a model calls them; and that nothing gets out.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    Approval, Limits, Outcome, OutputStore,
    workspace::{TreeLimits, Visit},
};

/// A word that stands in no workspace.
const SECRET: &str = "top-secret-of-the-host";

struct Desk {
    dir: TempDir,
    toolbox: Toolbox,
}

impl Desk {
    /// A workspace `w` beside a file with a secret.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("w")).unwrap();
        fs::write(dir.path().join("secret.txt"), SECRET).unwrap();
        let tree = Tree::open(&dir.path().join("w"), TreeLimits::default()).unwrap();
        let outputs = OutputStore::new(&dir.path().join("outputs"));
        let mut toolbox = Toolbox::new(outputs, Limits::default()).unwrap();
        add_reading(&mut toolbox, &tree).unwrap();
        add_writing(&mut toolbox, &tree, &Journal::new(&dir.path().join("journal"))).unwrap();
        Self { dir, toolbox }
    }

    fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("w")
    }

    async fn call_as(&self, key: &str, name: &str, arguments: Value) -> Observation {
        self.toolbox.call(ToolCall { key, name, arguments: &arguments, approval: Approval::Missing }).await
    }

    async fn call(&self, name: &str, arguments: Value) -> Observation {
        self.call_as("a/1/0", name, arguments).await
    }
}

#[tokio::test]
async fn files_are_written_read_listed_and_searched() {
    let desk = Desk::new();
    let made = desk.call("write_file", json!({"path": "src/main.rs", "content": "fn main() {\n    run();\n}\n"})).await;
    assert_eq!(made.text, "`src/main.rs` is made: 25 bytes, 3 lines");
    let again = desk.call("write_file", json!({"path": "./src//main.rs", "content": "fn main() {}\n"})).await;
    assert_eq!(again.text, "`src/main.rs` is replaced: 13 bytes, 1 lines");
    desk.call("write_file", json!({"path": "README.md", "content": "one\ntwo\nthree\nfour\n"})).await;

    assert_eq!(desk.call("read_file", json!({"path": "src/main.rs"})).await.text, "fn main() {}\n");
    let piece = desk.call("read_file", json!({"path": "README.md", "line": 2, "lines": 2})).await;
    assert_eq!(piece.text, "two\nthree\n[lines 2 to 3 of 4]");
    assert_eq!(piece.trust, crate::Trust::Untrusted);
    assert!(desk.call("read_file", json!({"path": "README.md", "line": 9})).await.is_error());

    assert_eq!(desk.call("list_files", json!({})).await.text, "README.md  19\nsrc/\nsrc/main.rs  13\n");
    assert_eq!(desk.call("list_files", json!({"depth": 1})).await.text, "README.md  19\nsrc/\n");
    assert_eq!(desk.call("list_files", json!({"glob": "*.rs"})).await.text, "src/main.rs  13\n");
    assert_eq!(desk.call("list_files", json!({"path": "src"})).await.text, "src/main.rs  13\n");

    let found = desk.call("search_files", json!({"pattern": "^t\\w+"})).await;
    assert_eq!(found.text, "README.md:2: two\nREADME.md:3: three\n");
    let found = desk.call("search_files", json!({"pattern": "MAIN()", "literal": true, "ignore_case": true})).await;
    assert_eq!(found.text, "src/main.rs:1: fn main() {}\n");
    assert_eq!(
        desk.call("search_files", json!({"pattern": "t", "path": "src/main.rs"})).await.text,
        "no line of 1 text files"
    );
    assert_eq!(desk.call("search_files", json!({"pattern": "("})).await.outcome, Outcome::Invalid);
    assert_eq!(desk.call("search_files", json!({"pattern": "x", "glob": "[z"})).await.outcome, Outcome::Invalid);
    let huge = desk.call("search_files", json!({"pattern": "(a{1000}){1000}"})).await;
    assert_eq!(huge.outcome, Outcome::Invalid, "a pattern may not cost what it likes");
}

#[tokio::test]
async fn an_edit_fits_exactly_or_changes_nothing() {
    let desk = Desk::new();
    let file = desk.root().join("a.py");
    fs::write(&file, "def a():\n    return 1\n\ndef b():\n    return 1\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    for (arguments, start) in [
        (
            json!({"path": "a.py", "old": "return 1", "new": "return 2"}),
            "`old` is in `a.py` more than once (lines 2, 5)",
        ),
        (json!({"path": "a.py", "old": "return 3", "new": "x"}), "`old` is not in `a.py`; `read_file`"),
        (json!({"path": "a.py", "old": "return 1\n\n\n", "new": "x"}), "`old` is not in `a.py`; line 2 is"),
        (json!({"path": "a.py", "old": "def a", "new": "def a"}), "that would not change `a.py`"),
        (json!({"path": "a.py", "old": "x"}), "give either `old` and `new`, or `patch`"),
        (json!({"path": "a.py", "patch": "@@ -1 +1 @@\n-def z():\n+x\n"}), "the patch does not fit `a.py`"),
        (json!({"path": "b.py", "old": "x", "new": "y"}), "there is no `b.py`"),
    ] {
        let found = desk.call("edit_file", arguments.clone()).await;
        assert_eq!(found.outcome, Outcome::Failed, "{arguments}");
        assert!(found.text.starts_with(start), "{arguments}: {}", found.text);
    }
    let edits = [
        json!({"path": "a.py", "old": "b():\n    return 1", "new": "b():\n    return 2"}),
        json!({"path": "a.py", "patch": "@@ -1,2 +1,2 @@\n-def a():\n+def a(x):\n     return 1\n"}),
        json!({"path": "a.py", "old": "return", "new": "yield", "all": true}),
    ];
    for (index, arguments) in edits.into_iter().enumerate() {
        let edited = desk.call_as(&format!("a/{index}/0"), "edit_file", arguments).await;
        assert_eq!(edited.outcome, Outcome::Ok);
        assert!(edited.text.starts_with("--- a/a.py\n+++ b/a.py\n@@ "), "{}", edited.text);
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "def a(x):\n    yield 1\n\ndef b():\n    yield 2\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o755, "it can still be run");
}

#[tokio::test]
async fn an_edit_that_is_made_again_after_a_crash_is_one_edit() {
    let desk = Desk::new();
    fs::write(desk.root().join("a"), "x").unwrap();
    let arguments = json!({"path": "a", "old": "x", "new": "xx", "all": true});
    for _ in 0..3 {
        assert_eq!(desk.call_as("a/7/0", "edit_file", arguments.clone()).await.outcome, Outcome::Ok);
        assert_eq!(fs::read_to_string(desk.root().join("a")).unwrap(), "xx");
    }
    desk.call_as("a/8/0", "edit_file", arguments).await;
    assert_eq!(
        fs::read_to_string(desk.root().join("a")).unwrap(),
        "xxxx",
        "the same edit of a later step is another one"
    );
}

#[tokio::test]
async fn edits_beside_each_other_are_all_kept() {
    let desk = Desk::new();
    let text = (0..20).map(|line| format!("line {line}.\n")).collect::<Vec<_>>().concat();
    fs::write(desk.root().join("a"), text).unwrap();
    let edits = (0..20).map(|line| {
        let arguments = json!({"path": "a", "old": format!("line {line}."), "new": format!("done {line}.")});
        let desk = &desk;
        async move { desk.call_as(&format!("a/{line}/0"), "edit_file", arguments).await }
    });
    for outcome in futures::future::join_all(edits).await {
        assert_eq!(outcome.outcome, Outcome::Ok, "{}", outcome.text);
    }
    let expected = (0..20).map(|line| format!("done {line}.\n")).collect::<Vec<_>>().concat();
    assert_eq!(fs::read_to_string(desk.root().join("a")).unwrap(), expected);
}

#[tokio::test]
async fn sizes_and_counts_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = TreeLimits { file_bytes_max: 100, entries_max: 10, bytes_max: 1000, depth_max: 4 };
    let tree = Tree::open(dir.path(), limits).unwrap();
    let path = |text: &str| tree.path(text).unwrap();
    assert!(matches!(tree.write(&path("a"), &[0; 101]), Err(FileError::TooLarge { .. })));
    fs::write(dir.path().join("big"), [b'x'; 101]).unwrap();
    assert!(matches!(tree.read(&path("big")), Err(FileError::TooLarge { .. })));
    fs::create_dir_all(dir.path().join("1/2/3/4/5/6")).unwrap();
    let mut deepest = 0;
    tree.walk(&FilePath::root(), |entry| {
        deepest = deepest.max(entry.path.parts().count());
        Visit::Go
    })
    .unwrap();
    assert_eq!(deepest, 4);
    for count in 0..12 {
        fs::write(dir.path().join(format!("f{count}")), "").unwrap();
    }
    assert!(matches!(tree.walk(&FilePath::root(), |_| Visit::Go), Err(FileError::TooMuch { .. })));
}

/// All the ways out that a path can take: each start with each end.
fn escapes(secret: &Path) -> Vec<String> {
    let absolute = secret.display().to_string();
    let mut ways = Vec::new();
    // Up, in many spellings, from many places.
    for start in ["", "./", "sub/", "sub/deep/", "sub/./", "link/", "to-file/", "missing/", "sub//"] {
        for up in ["..", "../..", "../../..", "./../", "..//..", "../w/..", "sub/../../", ".../..", "..\\..", "..%2f.."]
        {
            ways.push(format!("{start}{up}/secret.txt"));
        }
    }
    // From the top.
    for start in
        ["", "/", "//", "/.", "/..", "/proc/self/root", "/proc/self/cwd/..", "/dev/fd/../../..", "~/..", "file://"]
    {
        ways.push(format!("{start}{absolute}"));
    }
    for path in ["/etc/passwd", "/proc/self/environ", "/proc/self/mem", "/proc/1/root/etc/passwd", "~", "~/.ssh/id_rsa"]
    {
        ways.push(path.to_owned());
    }
    // Through links that stand in the workspace.
    let links =
        ["link", "to-file", "up", "chain", "loop", "self-root", "self-cwd", "fd", "sub/up", "dangling", "hard", "pipe"];
    for link in links {
        for end in ["", "/", "/.", "/secret.txt", "/../secret.txt", "/w/../secret.txt", "/etc/passwd", "/./secret.txt"]
        {
            ways.push(format!("{link}{end}"));
        }
    }
    // What git keeps, and what no name can be.
    for path in [
        ".git/config",
        ".git",
        ".GIT/hooks/x",
        "sub/.git/config",
        ".git./config",
        "git-link/config",
        "a\0/../secret.txt",
        "a\n",
    ] {
        ways.push(path.to_owned());
    }
    ways
}

fn traps(desk: &Desk) {
    let (root, outside) = (desk.root(), desk.dir.path());
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    fs::create_dir_all(root.join(".git/hooks")).unwrap();
    fs::write(root.join(".git/config"), SECRET).unwrap();
    for (name, target) in [
        ("link", outside.to_path_buf()),
        ("to-file", outside.join("secret.txt")),
        ("up", "..".into()),
        ("chain", "link".into()),
        ("loop", "loop".into()),
        ("self-root", "/proc/self/root".into()),
        ("self-cwd", "/proc/self/cwd".into()),
        ("fd", "/proc/self/fd".into()),
        ("sub/up", "../..".into()),
        ("dangling", outside.join("made-by-a-tool.txt")),
        ("git-link", ".git".into()),
    ] {
        symlink(target, root.join(name)).unwrap();
    }
    fs::hard_link(outside.join("secret.txt"), root.join("hard")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0).unwrap();
}

#[tokio::test]
async fn no_path_leads_out() {
    let desk = Desk::new();
    traps(&desk);
    let ways = escapes(&desk.dir.path().join("secret.txt"));
    assert!(ways.len() >= 200, "{}", ways.len());
    let before = outside(&desk);
    for way in &ways {
        for (name, arguments) in [
            ("read_file", json!({"path": way})),
            ("write_file", json!({"path": way, "content": "owned"})),
            ("edit_file", json!({"path": way, "old": SECRET, "new": "owned"})),
            ("list_files", json!({"path": way, "depth": 4})),
            ("search_files", json!({"path": way, "pattern": "secret"})),
        ] {
            let seen = desk.call(name, arguments).await;
            assert!(!seen.text.contains(SECRET), "{name} {way:?} gave: {}", seen.text);
        }
    }
    assert_eq!(outside(&desk), before, "nothing outside has changed");
    assert_eq!(fs::read_to_string(desk.root().join(".git/config")).unwrap(), SECRET);
    assert_eq!(fs::read_dir(desk.root().join(".git/hooks")).unwrap().count(), 0);
}

/// All that is beside the workspace, with its content.
fn outside(desk: &Desk) -> Vec<(String, String)> {
    let mut found: Vec<_> = fs::read_dir(desk.dir.path())
        .unwrap()
        .map(|it| it.unwrap())
        .map(|it| (it.file_name().into_string().unwrap(), fs::read_to_string(it.path()).unwrap_or_default()))
        .filter(|(name, _)| name != "outputs" && name != "journal")
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_becomes_a_link_while_it_is_used_leads_nowhere() {
    let desk = Desk::new();
    let root = desk.root();
    let place = root.join("d");
    fs::write(desk.dir.path().join("f"), SECRET).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // A directory, a link to the outside, a link to the secret: in turn, as fast as it goes.
            while !is_over.load(Ordering::Relaxed) {
                let _ = fs::create_dir(&place);
                let _ = fs::write(place.join("f"), "fine");
                let _ = fs::remove_dir_all(&place);
                let _ = symlink(desk.dir.path(), &place);
                let _ = fs::remove_file(&place);
            }
        });
        let executor = tokio::runtime::Handle::current();
        tokio::task::block_in_place(|| {
            executor.block_on(async {
                for _ in 0..500 {
                    let seen = desk.call("read_file", json!({"path": "d/f"})).await;
                    assert!(!seen.text.contains(SECRET), "{}", seen.text);
                    desk.call("write_file", json!({"path": "d/f", "content": "owned"})).await;
                    let seen = desk.call("search_files", json!({"path": "d", "pattern": "secret"})).await;
                    assert!(!seen.text.contains(SECRET), "{}", seen.text);
                }
            });
        });
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_to_string(desk.dir.path().join("f")).unwrap(), SECRET);
}

#[tokio::test]
async fn a_write_leaves_other_names_of_a_file_alone() {
    let desk = Desk::new();
    fs::hard_link(desk.dir.path().join("secret.txt"), desk.root().join("a")).unwrap();
    assert_eq!(desk.call("read_file", json!({"path": "a"})).await.outcome, Outcome::Refused);
    assert_eq!(desk.call("write_file", json!({"path": "a", "content": "mine"})).await.outcome, Outcome::Ok);
    assert_eq!(fs::read_to_string(desk.dir.path().join("secret.txt")).unwrap(), SECRET);
    assert_eq!(desk.call("read_file", json!({"path": "a"})).await.text, "mine");
}
