//! Whether `docs/runtime-semantics.md` names tests that exist: each promise says `room: module::test`, and there is such a test.
//!
//! `program` are the tests in `tests/program`, any other room is a crate; the module is the end of its path. A test is a function
//! under `#[test]` or `#[tokio::test]`, or one that a macro of ours makes tests of.
//!
//! **Invariant:** a promise without a test is a failure, and so is a page without promises.

use std::{collections::BTreeMap, path::Path};

use crate::{
    documented::{Source, list, read},
    process::{Cargo, Failure},
};

const PAGE: &str = "docs/runtime-semantics.md";
/// Macros that make tests of the functions they name, one for each backend or protocol.
const MAKERS: [&str; 3] = ["on_both!", "conformance!", "all! {"];
/// The chapter whose sentences promise nothing.
const NOT_PROMISED: &str = "Not promised";

/// Compares the page of the checkout with its tests.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Failure> {
    let problems = check(&read(&cargo.root.join(PAGE))?, &tests(&cargo.root)?);
    if problems.is_empty() {
        println!("{PAGE} names tests that exist");
        return Ok(());
    }
    Err(Failure::Check(format!("promises and tests differ:\n  {}", problems.join("\n  "))))
}

/// The names of the tests by room and file, as `module/path` without an extension.
type Tests = BTreeMap<(String, String), Vec<String>>;

fn tests(root: &Path) -> Result<Tests, Failure> {
    let (mut tests, mut elsewhere) = (Tests::new(), Vec::new());
    for dir in ["crates", "tests/program"] {
        for path in list(&root.join(dir))?.iter().filter(|path| path.extension().is_some_and(|it| it == "rs")) {
            let name = path.strip_prefix(root).unwrap_or(path).display().to_string();
            if let Some((room, module)) = place(&name) {
                let text = read(path)?;
                let folder = module.rsplit_once('/').map_or("", |(folder, _)| folder);
                elsewhere
                    .extend(of_files(&text).map(|(file, names)| ((room.clone(), format!("{folder}/{file}")), names)));
                tests.insert((room, module), names(&text));
            }
        }
    }
    for (place, names) in elsewhere {
        if let Some(of_file) = tests.get_mut(&place) {
            of_file.extend(names);
        }
    }
    Ok(tests)
}

/// Tests that a macro makes of functions in files beside its own: `conformance! { … limits { replies_are_bounded } … }`.
fn of_files(text: &str) -> impl Iterator<Item = (String, Vec<String>)> {
    let code = Source::code_of(text);
    let bodies: Vec<String> = MAKERS
        .iter()
        .filter_map(|maker| {
            let body = &code[code.rfind(&format!("\n{maker}"))? + maker.len() + 1..];
            body.find("\n}").map(|end| body[..end].to_owned())
        })
        .collect();
    bodies.into_iter().flat_map(|body| {
        let groups = body.split('}').filter_map(|it| it.rsplit_once('{'));
        let named = groups.filter_map(|(before, names)| Some((before.split_whitespace().next_back()?, names)));
        named
            .map(|(file, names)| (file.to_owned(), names.split_whitespace().map(str::to_owned).collect()))
            .collect::<Vec<_>>()
    })
}

/// The room and the module of a file.
fn place(file: &str) -> Option<(String, String)> {
    let module = |path: &str| path.trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
    if let Some(path) = file.strip_prefix("tests/program/") {
        return Some(("program".into(), module(path)));
    }
    let (room, path) = file.strip_prefix("crates/")?.split_once('/')?;
    let path = path.strip_prefix("src/").or_else(|| path.strip_prefix("tests/"))?;
    Some((room.into(), module(path)))
}

/// The tests of one file.
fn names(text: &str) -> Vec<String> {
    // Braces of a macro hold names only; comments and literals are blanked.
    let code = Source::code_of(text);
    let mut names: Vec<String> = Vec::new();
    for mark in ["#[test]", "#[tokio::test"] {
        for (at, _) in code.match_indices(mark) {
            let item = code[at..].split_once("fn ").map_or("", |(_, rest)| rest);
            names.extend(word(item).map(str::to_owned));
        }
    }
    for maker in MAKERS {
        for (at, _) in code.match_indices(maker) {
            let body = code[at..].split_once('}').map_or("", |(body, _)| body);
            let body = body.rsplit_once('{').map_or("", |(_, body)| body);
            names.extend(
                body.split_whitespace().filter(|name| code.contains(&format!("fn {name}("))).map(str::to_owned),
            );
        }
    }
    names
}

/// The name at the beginning.
fn word(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    Some(&text[..end]).filter(|it| !it.is_empty())
}

/// Everything that differs, a line each.
fn check(page: &str, tests: &Tests) -> Vec<String> {
    let mut problems = Vec::new();
    let mut promises = 0;
    for chapter in page.split("\n## ").skip(1) {
        let (title, body) = chapter.split_once('\n').unwrap_or((chapter, ""));
        let is_promised = title.trim() != NOT_PROMISED;
        for promise in entries(body) {
            let found = references(&promise);
            if is_promised && found.is_empty() {
                let beginning: String = promise.chars().take(60).collect();
                problems.push(format!("{PAGE}: no test is named for `{beginning}…`"));
            }
            promises += usize::from(is_promised);
            for (room, name) in found {
                if !exists(tests, &room, &name) {
                    problems.push(format!("{PAGE}: there is no test `{room}: {name}`"));
                }
            }
        }
    }
    if promises == 0 {
        problems.push(format!("{PAGE}: no promise was found"));
    }
    problems
}

/// The bullets and rows of a chapter, each as one line.
fn entries(body: &str) -> Vec<String> {
    let mut entries: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in body.lines() {
        let is_row = line.starts_with("| ") && !line.starts_with("| Bound |");
        if line.starts_with("- ") || is_row {
            entries.push(line.to_owned());
            is_open = !is_row;
        } else if let (true, true, Some(last)) = (is_open, line.starts_with("  "), entries.last_mut()) {
            last.push(' ');
            last.push_str(line.trim());
        } else {
            is_open = false;
        }
    }
    entries
}

/// What stands between back quotes as `room: test`.
fn references(text: &str) -> Vec<(String, String)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|it| it.split_once(": "));
    // A code such as `roles.ROLE.slots` has no room, and a room is one word.
    let fits = named.filter(|(room, _)| !room.is_empty() && room.chars().all(|c| c.is_ascii_lowercase()));
    fits.map(|(room, name)| (room.to_owned(), name.trim().to_owned())).collect()
}

fn exists(tests: &Tests, room: &str, name: &str) -> bool {
    let Some((module, name)) = name.rsplit_once("::") else { return false };
    let wanted = module.replace("::", "/");
    tests.iter().any(|((of, path), names)| {
        let is_end = path == &wanted || path.ends_with(&format!("/{wanted}"));
        of == room && is_end && names.iter().any(|it| it == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
        #[test]
        fn plain() {}
        #[tokio::test(start_paused = true)]
        #[cfg(unix)]
        async fn timed() {}
        on_both! { on_each  not_here }
        conformance! {
            a A b B:
            { of_all }
        }
        // #[test] fn commented() {}
        async fn on_each(place: &Place) {}
        async fn of_all(wire: &dyn Wire) {}
        fn helper() {}
    ";

    fn page(promise: &str) -> String {
        format!("# Title\n## Chapter\n- It holds. {promise}\n\n## Not promised\n- Anything.\n")
    }

    fn found(page: &str) -> Vec<String> {
        let place = place("crates/store/tests/conformance/queue.rs").unwrap();
        check(page, &[(place, names(FILE))].into())
    }

    #[test]
    fn named_tests_are_found_wherever_they_are_made() {
        assert_eq!(names(FILE), ["plain", "timed", "on_each", "of_all"]);
        for name in ["queue::plain", "conformance::queue::timed", "queue::on_each", "queue::of_all"] {
            assert_eq!(found(&page(&format!("`store: {name}`"))), Vec::<String>::new(), "{name}");
        }
    }

    #[test]
    fn tests_of_functions_in_other_files_are_found() {
        let text = "mod limits;\nmacro_rules! conformance {\n    () => {};\n}\nconformance! {\n    a A:\n    {\n        answers {\n            plain streamed\n        }\n        limits { bounded }\n    }\n}\n";
        let found: Vec<(String, Vec<String>)> = of_files(text).collect();
        let expected = [("answers", vec!["plain", "streamed"]), ("limits", vec!["bounded"])];
        let expected = expected.map(|(file, names)| (file.to_owned(), names.into_iter().map(str::to_owned).collect()));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_test_is_named() {
        let names = ["queue::helper", "queue::not_here", "queue::commented", "runs::plain", "plain", "queue::pla…"];
        for name in names {
            let expected = format!("{PAGE}: there is no test `store: {name}`");
            assert_eq!(found(&page(&format!("`store:\n  {name}`"))), [expected]);
        }
        assert_eq!(found(&page("`program: queue::plain`")).len(), 1, "another room");
    }

    #[test]
    fn a_promise_needs_a_test_and_a_page_promises() {
        assert_eq!(
            found(&page("`resume` goes on")),
            [format!("{PAGE}: no test is named for `- It holds. `resume` goes on…`")]
        );
        assert_eq!(found("# Title\n## Chapter\nWords.\n"), [format!("{PAGE}: no promise was found")]);
        let row = "# T\n## Bounds\n| Bound | Default |\n|---|---|\n| runs | 3 |\n";
        assert_eq!(found(row), [format!("{PAGE}: no test is named for `| runs | 3 |…`")]);
    }

    #[test]
    fn modules_are_paths() {
        for (file, room, module) in [
            ("crates/engine/src/wallet/mod.rs", "engine", "wallet"),
            ("crates/engine/src/lease/simulation/mod.rs", "engine", "lease/simulation"),
            ("crates/models/tests/conformance.rs", "models", "conformance"),
            ("tests/program/run.rs", "program", "run"),
        ] {
            assert_eq!(place(file), Some((room.into(), module.into())));
        }
        assert_eq!(place("crates/store/examples/commit_cost.rs"), None);
    }

    #[test]
    fn this_checkout_keeps_its_promises() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(check(&read(&root.join(PAGE)).unwrap(), &tests(root).unwrap()), Vec::<String>::new());
    }
}
