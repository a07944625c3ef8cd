//! Views, merges and what a hostile repository tries.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

use tempfile::TempDir;

use super::*;

struct Bench {
    dir: TempDir,
    workspace: Workspace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Repository,
}

const BOTH: [Form; 2] = [Form::Plain, Form::Repository];

fn git(root: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Bench {
    async fn new(form: Form, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("w");
        fs::create_dir(&root).unwrap();
        for (name, text) in files {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        }
        if form == Form::Repository {
            git(&root, &["init", "--quiet"]);
            git(&root, &["add", "--all"]);
            git(&root, &["commit", "--quiet", "--allow-empty", "-m", "first"]);
        }
        let workspace = Workspace::open(&root, &dir.path().join("state"), TreeLimits::default()).await.unwrap();
        assert_eq!(workspace.is_repository(), form == Form::Repository);
        Self { dir, workspace }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("w")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).unwrap()
    }

    async fn view(&self, attempt: &str) -> View {
        self.workspace.view(attempt).await.unwrap()
    }

    async fn merge(&self, view: &View) -> Merge {
        self.workspace.merge(view).await.unwrap()
    }
}

fn write(view: &View, name: &str, text: &str) {
    view.tree().write(&FilePath::parse(name).unwrap(), text.as_bytes()).unwrap();
}

fn merged(merge: Merge) -> Merged {
    match merge {
        Merge::Merged(merged) => merged,
        Merge::Conflict { conflicts, .. } => panic!("a conflict: {conflicts:?}"),
    }
}

fn conflicts(merge: Merge) -> Vec<Conflict> {
    match merge {
        Merge::Conflict { conflicts, diff } => {
            assert!(!diff.is_empty());
            conflicts
        }
        Merge::Merged(merged) => panic!("merged: {merged:?}"),
    }
}

fn lines(count: usize) -> String {
    (0..count).map(|line| format!("line {line}\n\n\n\n")).collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_view_begins_as_the_workspace_is_and_changes_it_only_when_merged() {
    for form in BOTH {
        let bench = Bench::new(form, &[("a.txt", "one\n"), ("d/b.txt", "two\n"), ("gone.txt", "x\n")]).await;
        // What the person has not committed is there, too.
        fs::write(bench.root().join("a.txt"), "one and a half\n").unwrap();
        fs::write(bench.root().join("new.txt"), "new\n").unwrap();
        fs::remove_file(bench.root().join("gone.txt")).unwrap();
        let view = bench.view("a1").await;
        let see = |name: &str| fs::read_to_string(view.root().join(name)).ok();
        assert_eq!(see("a.txt").as_deref(), Some("one and a half\n"), "{form:?}");
        assert_eq!(see("new.txt").as_deref(), Some("new\n"), "{form:?}");
        assert_eq!(see("gone.txt"), None, "{form:?}");
        assert_eq!(view.diff().await.unwrap(), "", "{form:?}");

        write(&view, "d/b.txt", "zwei\n");
        write(&view, "d/e/f.txt", "deep\n");
        fs::remove_file(view.root().join("a.txt")).unwrap();
        let diff = view.diff().await.unwrap();
        assert!(diff.contains("--- a/d/b.txt\n+++ b/d/b.txt\n@@ -1 +1 @@\n-two\n+zwei\n"), "{diff}");
        assert!(diff.contains("--- /dev/null\n+++ b/d/e/f.txt\n"), "{diff}");
        assert_eq!(bench.read("d/b.txt"), "two\n", "{form:?}: nothing yet");

        let done = merged(bench.merge(&view).await);
        let names: Vec<&str> = done.files.iter().map(FilePath::as_str).collect();
        assert_eq!(names, ["a.txt", "d/b.txt", "d/e/f.txt"], "{form:?}");
        assert_eq!(done.diff, diff);
        assert_eq!(bench.read("d/b.txt"), "zwei\n");
        assert_eq!(bench.read("d/e/f.txt"), "deep\n");
        assert!(!bench.root().join("a.txt").exists());

        bench.workspace.discard("a1").await.unwrap();
        assert!(!view.root().exists());
        if form == Form::Repository {
            assert_eq!(git(&bench.root(), &["worktree", "list"]).lines().count(), 1);
        }
        assert_eq!(bench.workspace.merged("a1").await.unwrap().unwrap().diff, diff, "the diff is kept");
    }
}

#[tokio::test]
async fn ten_views_that_edit_one_file_lose_nothing() {
    for form in BOTH {
        let bench = Bench::new(form, &[("a.txt", &lines(10))]).await;
        let names: Vec<String> = (0..10).map(|it| format!("v{it}")).collect();
        let views = futures::future::join_all(names.iter().map(|it| bench.workspace.view(it))).await;
        let views: Vec<View> = views.into_iter().map(Result::unwrap).collect();
        for (index, view) in views.iter().enumerate() {
            let text = lines(10).replace(&format!("line {index}\n"), &format!("line {index} by {index}\n"));
            write(view, "a.txt", &text);
        }
        for outcome in futures::future::join_all(views.iter().map(|view| bench.workspace.merge(view))).await {
            merged(outcome.unwrap());
        }
        let text = bench.read("a.txt");
        for index in 0..10 {
            assert!(text.contains(&format!("line {index} by {index}\n")), "{form:?} {index}: {text}");
        }
    }
}

#[tokio::test]
async fn ten_views_that_edit_one_line_are_one_merge_and_nine_conflicts() {
    for form in BOTH {
        let bench = Bench::new(form, &[("a.txt", "x\n")]).await;
        let mut views = Vec::new();
        for index in 0..10 {
            let view = bench.view(&format!("v{index}")).await;
            write(&view, "a.txt", &format!("by {index}\n"));
            write(&view, &format!("only-{index}.txt"), "mine\n");
            views.push(view);
        }
        merged(bench.merge(&views[0]).await);
        for (index, view) in views.iter().enumerate().skip(1) {
            let found = conflicts(bench.merge(view).await);
            assert_eq!(found.len(), 1);
            assert_eq!((found[0].path.as_str(), found[0].reason), ("a.txt", ConflictReason::Lines));
            assert!(found[0].marked.contains("by 0\n") && found[0].marked.contains(&format!("by {index}\n")));
            assert!(!bench.root().join(format!("only-{index}.txt")).exists(), "whole or not at all");
        }
        assert_eq!(bench.read("a.txt"), "by 0\n");
        // The author looks at it again, on what there is now.
        let again = bench.view("v1-again").await;
        write(&again, "a.txt", "by 0 and 1\n");
        merged(bench.merge(&again).await);
        assert_eq!(bench.read("a.txt"), "by 0 and 1\n");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_a_conflict_with_its_reason() {
    let files = [("edit", "x\n"), ("remove", "x\n"), ("binary", "x\n"), ("same", "x\n")];
    let bench = Bench::new(Form::Plain, &files).await;
    let view = bench.view("v").await;
    for name in ["edit", "added", "binary"] {
        write(&view, name, "theirs\n");
    }
    fs::remove_file(view.root().join("remove")).unwrap();
    write(&view, "same", "alike\n");
    symlink("../../etc/passwd", view.root().join("out")).unwrap();
    symlink("same", view.root().join("in")).unwrap();
    fs::remove_file(bench.root().join("edit")).unwrap();
    fs::write(bench.root().join("remove"), "changed\n").unwrap();
    fs::write(bench.root().join("added"), "ours\n").unwrap();
    fs::write(bench.root().join("binary"), [0xFF, 0]).unwrap();
    fs::write(bench.root().join("same"), "alike\n").unwrap();
    let found: Vec<_> =
        conflicts(bench.merge(&view).await).into_iter().map(|it| (it.path.to_string(), it.reason)).collect();
    let expected = [
        ("added", ConflictReason::Added),
        ("binary", ConflictReason::Binary),
        ("edit", ConflictReason::Removed),
        ("out", ConflictReason::LeadsOut),
        ("remove", ConflictReason::Removed),
    ];
    assert_eq!(found, expected.map(|(path, reason)| (path.to_owned(), reason)));
    assert!(!bench.root().join("in").exists(), "nothing is merged in part");
}

#[tokio::test]
async fn a_merge_that_a_crash_cut_short_is_brought_to_its_end() {
    for form in BOTH {
        let bench = Bench::new(form, &[("a", &lines(9)), ("b", "b\n"), ("c", "c\n")]).await;
        let view = bench.view("v").await;
        write(&view, "a", &lines(9).replace("line 1\n", "line one\n"));
        write(&view, "b", "B\n");
        fs::remove_file(view.root().join("c")).unwrap();
        fs::write(bench.root().join("a"), lines(9).replace("line 7\n", "line seven\n")).unwrap();
        let before: Vec<_> = ["a", "b", "c"].map(|name| fs::read(bench.root().join(name)).unwrap()).into();
        let done = merged(bench.merge(&view).await);
        let text = bench.read("a");
        // As if it had been cut short before any one of its steps.
        for (name, bytes) in ["a", "b", "c"].into_iter().zip(&before) {
            fs::write(bench.root().join(name), bytes).unwrap();
            assert_eq!(merged(bench.merge(&view).await), done, "{form:?} {name}");
            assert_eq!((bench.read("a"), bench.read("b")), (text.clone(), "B\n".to_owned()));
            assert!(!bench.root().join("c").exists());
        }
        // Taken back, what the person did stays.
        merged(bench.workspace.revert("v").await.unwrap());
        assert_eq!(bench.read("a"), lines(9).replace("line 7\n", "line seven\n"));
        assert_eq!((bench.read("b"), bench.read("c")), ("b\n".to_owned(), "c\n".to_owned()));
        assert!(matches!(bench.workspace.revert("w").await, Err(Error::NothingMerged { .. })));
    }
}

#[tokio::test]
async fn what_a_crash_left_of_a_view_is_made_anew() {
    for form in BOTH {
        let bench = Bench::new(form, &[("a", "a\n")]).await;
        let view = bench.view("v").await;
        write(&view, "a", "changed\n");
        let again = bench.view("v").await;
        assert_eq!(fs::read_to_string(again.root().join("a")).unwrap(), "changed\n", "a whole view goes on");
        fs::remove_file(view.root().parent().unwrap().join("base.json")).unwrap();
        let anew = bench.view("v").await;
        assert_eq!(fs::read_to_string(anew.root().join("a")).unwrap(), "a\n", "{form:?}: a half one does not");
    }
}

#[tokio::test]
async fn commits_of_a_view_reach_the_branch_when_it_has_not_moved() {
    let bench = Bench::new(Form::Repository, &[("a", "a\n"), ("b", "b\n")]).await;
    let (one, two) = (bench.view("one").await, bench.view("two").await);
    for (view, name) in [(&one, "a"), (&two, "b")] {
        write(view, name, "changed\n");
        view.commit_all(&format!("change {name}")).unwrap().unwrap();
        assert_eq!(view.commit_all("again").unwrap(), None, "there is nothing more");
    }
    let commit = merged(bench.merge(&one).await).commit.unwrap();
    assert_eq!(git(&bench.root(), &["rev-parse", "main"]).trim(), commit);
    assert_eq!(git(&bench.root(), &["status", "--porcelain"]), "");
    let other = merged(bench.merge(&two).await).commit.unwrap();
    assert_eq!(git(&bench.root(), &["rev-parse", "main"]).trim(), commit, "the branch had moved");
    assert_eq!(git(&bench.root(), &["rev-parse", "refs/crewline/two"]).trim(), other, "and nothing is lost");
    assert_eq!(git(&bench.root(), &["status", "--porcelain"]), " M b\n");
}

#[tokio::test]
async fn ignored_files_and_nested_repositories_stay_where_they_are() {
    let bench = Bench::new(Form::Repository, &[("a", "a\n"), (".gitignore", "build/\n")]).await;
    fs::create_dir_all(bench.root().join("build")).unwrap();
    fs::write(bench.root().join("build/big"), "x").unwrap();
    fs::create_dir(bench.root().join("nested")).unwrap();
    git(&bench.root().join("nested"), &["init", "--quiet"]);
    let view = bench.view("v").await;
    assert!(!view.root().join("build").exists() && !view.root().join("nested/.git").exists());
    fs::create_dir(view.root().join("build")).unwrap();
    fs::write(view.root().join("build/out"), "y").unwrap();
    // Ignoring what was there does not remove it.
    write(&view, ".gitignore", "build/\na\n");
    assert_eq!(merged(bench.merge(&view).await).files.len(), 1);
    assert_eq!(bench.read("a"), "a\n");
}

#[tokio::test]
async fn nothing_a_repository_names_is_run() {
    let bench = Bench::new(
        Form::Repository,
        &[("a.txt", "a\n"), (".gitattributes", "*.txt filter=evil diff=evil merge=evil\n")],
    )
    .await;
    let (root, trap) = (bench.root(), bench.dir.path().join("trap.sh"));
    let mark = bench.dir.path().join("mark");
    fs::write(&trap, format!("#!/bin/sh\necho ran >> {}\ncat\n", mark.display())).unwrap();
    fs::set_permissions(&trap, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let trap = trap.display().to_string();
    for name in [
        "core.fsmonitor",
        "core.pager",
        "core.editor",
        "core.sshCommand",
        "core.askPass",
        "diff.external",
        "gpg.program",
        "filter.evil.clean",
        "filter.evil.smudge",
        "filter.evil.process",
        "diff.evil.textconv",
        "diff.evil.command",
        "merge.evil.driver",
        "credential.helper",
        "core.alternateRefsCommand",
    ] {
        git(&root, &["config", name, &trap]);
    }
    git(&root, &["config", "filter.evil.required", "true"]);
    git(&root, &["config", "commit.gpgSign", "true"]);
    git(&root, &["config", "log.showSignature", "true"]);
    for hook in
        ["pre-commit", "post-checkout", "commit-msg", "post-commit", "reference-transaction", "post-index-change"]
    {
        fs::create_dir_all(root.join(".git/hooks")).unwrap();
        fs::copy(&trap, root.join(".git/hooks").join(hook)).unwrap();
    }
    let workspace = Workspace::open(&root, &bench.dir.path().join("state"), TreeLimits::default()).await.unwrap();
    let view = workspace.view("v").await.unwrap();
    write(&view, "a.txt", "changed\n");
    // A nested repository with a trap of its own, made by a command.
    fs::create_dir(view.root().join("nested")).unwrap();
    git(&view.root().join("nested"), &["init", "--quiet"]);
    git(&view.root().join("nested"), &["config", "core.fsmonitor", &trap]);
    // And another directory of git in place of the view's own.
    fs::write(view.root().join(".git"), format!("gitdir: {}\n", view.root().join("nested/.git").display())).unwrap();
    for what in [GitRead::Status, GitRead::Diff { revision: None, path: None }, GitRead::Log { count: 5, path: None }] {
        view.git_read(&what).unwrap();
    }
    view.commit_all("message").unwrap().unwrap();
    merged(workspace.merge(&view).await.unwrap());
    workspace.discard("v").await.unwrap();
    assert!(!mark.exists(), "{}", fs::read_to_string(&mark).unwrap_or_default());
    assert_eq!(fs::read_to_string(root.join("a.txt")).unwrap(), "changed\n");
}

#[tokio::test]
async fn a_workspace_that_holds_its_own_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Workspace::open(dir.path(), &dir.path().join("data"), TreeLimits::default()).await;
    assert!(matches!(opened, Err(Error::Workspace { .. })));
    let missing = Workspace::open(&dir.path().join("none"), Path::new("/tmp"), TreeLimits::default()).await;
    assert!(matches!(missing, Err(Error::Workspace { .. })));
}

#[tokio::test]
async fn an_attempts_name_is_never_a_path() {
    let bench = Bench::new(Form::Plain, &[]).await;
    for name in ["", "..", "a/b", "../../x", "a b", &"x".repeat(65)] {
        assert!(matches!(bench.workspace.view(name).await, Err(Error::Attempt { .. })), "{name:?}");
        assert!(matches!(bench.workspace.discard(name).await, Err(Error::Attempt { .. })), "{name:?}");
    }
}
