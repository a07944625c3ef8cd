//! Whether the reference pages tell what the sources say: a section in `docs/errors.md` for each error code, a row in
//! `docs/metrics.md` for each metric, and the other way round; and a metric behind each name on a dashboard or in an alert.
//!
//! Error codes are the literals of the form `a.b` in the body of a `fn code`; in `runtime` and `api`, which make error notes
//! and problem bodies in many places, they are all literals of that form. A limit `x` of a run has the code `budget.x`.
//!
//! **Invariant:** tests do not count: a code or metric that only a test names needs no page.
//! **Invariant:** a scan that finds nothing is a failure: the check must not pass because the sources moved.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::process::{Cargo, Failure};

/// Crates whose literals may all be error codes.
const NOTING: [&str; 2] = ["crates/runtime/src/", "crates/api/src/"];
/// Attributes of spans, which look like codes.
const ATTRIBUTES: [&str; 1] = ["error.type"];
/// What follows the dot in the name of a file.
const EXTENSIONS: [&str; 8] = ["db", "json", "log", "md", "py", "toml", "yaml", "yml"];
/// What each section of an error says.
const LABELS: [&str; 4] = ["**Symptom.**", "**Cause.**", "**Remedy.**", "**Exit code.**"];
/// What the exporter appends to the name of a histogram.
const SUFFIXES: [&str; 3] = ["_bucket", "_count", "_sum"];

/// Compares the pages of the checkout with its sources.
pub(crate) fn run(cargo: &Cargo) -> Result<(), Failure> {
    let problems = check(&Input::read(&cargo.root)?);
    if problems.is_empty() {
        println!("docs/errors.md and docs/metrics.md are complete");
        return Ok(());
    }
    Err(Failure::Check(format!("reference pages and sources differ:\n  {}", problems.join("\n  "))))
}

/// All that is compared; files by their path below the root.
#[derive(Default)]
struct Input {
    sources: BTreeMap<String, String>,
    errors: String,
    metrics: String,
    config: BTreeMap<String, String>,
}

impl Input {
    fn read(root: &Path) -> Result<Self, Failure> {
        let mut input = Self {
            errors: read(&root.join("docs/errors.md"))?,
            metrics: read(&root.join("docs/metrics.md"))?,
            ..Self::default()
        };
        for (dir, extension) in [("crates", "rs"), ("config/grafana", "json"), ("config/prometheus", "yml")] {
            let files = if dir == "crates" { &mut input.sources } else { &mut input.config };
            for path in list(&root.join(dir))? {
                let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
                let is_wanted = dir != "crates" || name.contains("/src/");
                if is_wanted && path.extension().is_some_and(|it| it == extension) {
                    files.insert(name, read(&path)?);
                }
            }
        }
        Ok(input)
    }
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| Failure::File { path: path.to_owned(), error })
}

/// The files below a folder.
pub(crate) fn list(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::File { path: dir.to_owned(), error };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() { files.extend(list(&path)?) } else { files.push(path) }
    }
    Ok(files)
}

/// Everything that differs, a line each.
fn check(input: &Input) -> Vec<String> {
    let mut problems = Vec::new();
    let (codes, metrics) = (codes(&input.sources), metrics(&input.sources));
    for (what, found) in [("error code", &codes), ("metric", &metrics)] {
        if found.is_empty() {
            problems.push(format!("no {what} was found in the sources"));
        }
    }
    let sections = sections(&input.errors, &mut problems);
    compare(&codes, &sections, "docs/errors.md", "section", &mut problems);
    let rows = rows(&input.metrics, &mut problems);
    compare(&metrics, &rows, "docs/metrics.md", "row", &mut problems);
    for (file, text) in &input.config {
        for name in words(text) {
            let base =
                SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).filter(|it| it.ends_with("_seconds"));
            if !metrics.contains(name) && !base.is_some_and(|base| metrics.contains(base)) {
                problems.push(format!("{file}: there is no metric `{name}`"));
            }
        }
    }
    problems
}

fn compare(there: &BTreeSet<String>, told: &BTreeSet<String>, page: &str, part: &str, problems: &mut Vec<String>) {
    problems.extend(there.difference(told).map(|name| format!("{page}: `{name}` has no {part}")));
    problems.extend(told.difference(there).map(|name| format!("{page}: `{name}` is in no source")));
}

/// The codes that have a section; one that lacks a part, or is there twice, is a problem.
fn sections(page: &str, problems: &mut Vec<String>) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for section in page.split("\n## ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let Some(code) = title.trim().strip_prefix('`').and_then(|it| it.strip_suffix('`')) else { continue };
        for label in LABELS.iter().filter(|label| !body.contains(**label)) {
            problems.push(format!("docs/errors.md: `{code}` lacks {label}"));
        }
        if !codes.insert(code.to_owned()) {
            problems.push(format!("docs/errors.md: `{code}` has two sections"));
        }
    }
    codes
}

/// The metrics that have a row.
fn rows(page: &str, problems: &mut Vec<String>) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for line in page.lines() {
        let Some((name, _)) = line.strip_prefix("| `").and_then(|rest| rest.split_once('`')) else { continue };
        if is_metric(name) && !names.insert(name.to_owned()) {
            problems.push(format!("docs/metrics.md: `{name}` has two rows"));
        }
    }
    names
}

/// The words of a text that look like a metric.
fn words(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).filter(|word| is_metric(word)).collect()
}

fn is_metric(word: &str) -> bool {
    word.strip_prefix("crewline_").is_some_and(|rest| !rest.is_empty())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn is_code(word: &str) -> bool {
    let is_name = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    !ATTRIBUTES.contains(&word)
        && word
            .split_once('.')
            .is_some_and(|(room, name)| is_name(room) && is_name(name) && !EXTENSIONS.contains(&name))
}

/// The metrics that the `metrics.rs` of the crates name.
fn metrics(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let files = sources.iter().filter(|(file, _)| file.ends_with("/metrics.rs"));
    let literals = files.flat_map(|(_, text)| Source::of(text).literals);
    literals.map(|literal| literal.text).filter(|text| is_metric(text)).collect()
}

/// The error codes of the sources.
fn codes(sources: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (file, text) in sources.iter().filter(|(file, _)| !is_test_module(file, sources)) {
        let source = Source::of(text);
        let bodies = source.bodies("fn code(");
        let is_noting = NOTING.iter().any(|crate_| file.starts_with(crate_));
        for Literal { at, text } in &source.literals {
            let before = source.code[..*at].trim_end();
            if before.ends_with("limit_reached(") {
                codes.insert(format!("budget.{text}"));
            } else if is_code(text) && (is_noting || bodies.iter().any(|body| body.contains(at))) {
                codes.insert(text.clone());
            }
        }
    }
    codes
}

/// Whether the file is a module that its neighbour declares for tests only, as `#[cfg(test)] mod tests;`.
fn is_test_module(file: &str, sources: &BTreeMap<String, String>) -> bool {
    let Some((folder, name)) = file.rsplit_once('/') else { return false };
    let name = name.trim_end_matches(".rs");
    let of_folder = format!("{folder}.rs");
    let declares = |text: &str| {
        text.split("#[cfg(test)]").skip(1).any(|rest| {
            let item = rest.trim_start();
            let item = item.strip_prefix("pub(crate) ").unwrap_or(item);
            item.strip_prefix("mod ").and_then(|it| it.strip_prefix(name)).is_some_and(|it| it.starts_with(';'))
        })
    };
    let parents = [format!("{folder}/lib.rs"), format!("{folder}/main.rs"), format!("{folder}/mod.rs"), of_folder];
    parents.iter().filter_map(|parent| sources.get(parent)).any(|text| declares(text))
}

/// A text between quotes, and where its first quote stands.
#[derive(Debug, PartialEq, Eq)]
struct Literal {
    at: usize,
    text: String,
}

/// A source file taken apart as far as the check needs it.
pub(crate) struct Source {
    /// The file with comments, literals and modules of tests blanked, byte for byte as long.
    code: String,
    literals: Vec<Literal>,
}

impl Source {
    fn of(text: &str) -> Self {
        let mut source = Self::whole(text);
        source.drop_tests();
        source
    }

    /// The file with comments and literals blanked.
    pub(crate) fn code_of(text: &str) -> String {
        Self::whole(text).code
    }

    fn whole(text: &str) -> Self {
        let mut source = Self { code: String::with_capacity(text.len()), literals: Vec::new() };
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let at = source.code.len();
            let (taken, literal) = piece(rest, source.code.chars().next_back());
            if let Some((from, to)) = literal {
                source.literals.push(Literal { at, text: rest[from..to].to_owned() });
            }
            if taken == first.len_utf8() && first.is_ascii() {
                source.code.push(first);
            } else {
                source.code.extend(std::iter::repeat_n(' ', taken));
            }
            rest = &rest[taken..];
        }
        source
    }

    /// What is between the braces that follow each `start`.
    fn bodies(&self, start: &str) -> Vec<std::ops::Range<usize>> {
        self.code.match_indices(start).filter_map(|(at, _)| self.block(at)).collect()
    }

    /// The next block in braces, from its first brace to its last.
    fn block(&self, from: usize) -> Option<std::ops::Range<usize>> {
        let open = from + self.code[from..].find('{')?;
        let mut depth = 0_u32;
        for (at, c) in self.code[open..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(open..open + at + 1);
            }
        }
        None
    }

    fn drop_tests(&mut self) {
        let marks: Vec<usize> = self.code.match_indices("#[cfg(test)]").map(|it| it.0).collect();
        for mark in marks {
            let item = self.code[mark..].trim_start_matches("#[cfg(test)]").trim_start();
            let is_inline =
                item.starts_with("mod ") && item.find(['{', ';']).is_some_and(|at| item[at..].starts_with('{'));
            if let (true, Some(block)) = (is_inline, self.block(mark)) {
                self.literals.retain(|literal| !block.contains(&literal.at));
                let blank = " ".repeat(block.len());
                self.code.replace_range(block, &blank);
            }
        }
    }
}

/// How many bytes of `rest` belong together, and where in them a literal's text is. `before` is what stands in front.
fn piece(rest: &str, before: Option<char>) -> (usize, Option<(usize, usize)>) {
    let end = |from: usize, mark: &str| rest[from..].find(mark).map_or(rest.len(), |at| from + at + mark.len());
    let is_in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), None);
    }
    if rest.starts_with("/*") {
        return (end(2, "*/"), None);
    }
    if let Some(raw) = rest.strip_prefix('r').filter(|_| !is_in_word) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let from = hashes + 2;
            let close = format!("\"{}", "#".repeat(hashes));
            let to = end(from, &close);
            return (to, Some((from, to.saturating_sub(close.len()).max(from))));
        }
    }
    if let Some(inner) = rest.strip_prefix('"') {
        let mut is_escaped = false;
        let close = inner.find(|c| {
            let is_end = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            is_end
        });
        return close.map_or((rest.len(), Some((1, rest.len()))), |at| (at + 2, Some((1, at + 1))));
    }
    if let Some(inner) = rest.strip_prefix('\'') {
        // A character; anything else behind a quote is a lifetime.
        let mut chars = inner.char_indices();
        let close = match chars.next() {
            Some((_, '\\')) => inner[1..].char_indices().skip(1).find(|it| it.1 == '\'').map(|it| it.0 + 1),
            Some(_) => chars.next().filter(|it| it.1 == '\'').map(|it| it.0),
            None => None,
        };
        return close.map_or((1, None), |at| (at + 2, None));
    }
    (rest.chars().next().map_or(1, char::len_utf8), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = r#"
        /// `not.this`, it's a comment.
        impl Error {
            pub fn code(&self) -> &'static str {
                match self {
                    Self::Slow { .. } => "model.timeout",
                    Self::Open(c) if *c == '{' || *c == '\'' => "store.open_failed", // "not.either"
                    Self::Inner(error) => error.code(),
                }
            }
            fn hint(&self) -> &'static str { "see.this" }
        }
        #[cfg(test)]
        mod tests { fn code() -> &'static str { "only.tested" } }
    "#;
    const NOTES: &str = r##"
        const FILE: &str = "report.json";
        fn note(seen: &mut Notes) {
            seen.push("attempt.lost", r#"say "so.what" "#);
            limit_reached("max_cost", message);
        }
    "##;
    const METRICS: &str = r#"
        const RUNS: &str = "crewline_runs_total";
        fn took() { histogram!("crewline_run_seconds").record(1.0); }
        #[cfg(test)]
        mod tests { const NAME: &str = "crewline_tested_total"; }
    "#;

    fn section(code: &str) -> String {
        format!("\n## `{code}`\n{}\n", LABELS.join(" so\n"))
    }

    /// Sources and pages that fit each other.
    fn good() -> Input {
        let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        Input {
            sources: [
                file("crates/models/src/error.rs", ERROR),
                file("crates/models/src/lib.rs", "mod error;\n#[cfg(test)]\npub(crate) mod fake;"),
                file("crates/models/src/fake.rs", r#"fn code() -> &'static str { "fake.code" }"#),
                file("crates/models/src/metrics.rs", METRICS),
                file("crates/runtime/src/note.rs", NOTES),
                file("crates/cli/src/other.rs", r#"const NOT_A_NOTE: &str = "just.text";"#),
            ]
            .into(),
            errors: ["attempt.lost", "budget.max_cost", "model.timeout", "store.open_failed"].map(section).concat(),
            metrics: "| Name | Type |\n|---|---|\n| `crewline_runs_total` | counter |\n| `crewline_run_seconds` | histogram |"
                .to_owned(),
            config: [file("config/a.yml", "rate(crewline_run_seconds_bucket[5m]) / crewline_runs_total{a=\"b\"}")].into(),
        }
    }

    #[test]
    fn pages_that_fit_are_fine() {
        assert_eq!(check(&good()), Vec::<String>::new());
    }

    #[test]
    fn a_code_without_a_section_and_a_section_without_a_code_are_named() {
        let mut input = good();
        input.errors = input.errors.replace("model.timeout", "model.timeuot");
        assert_eq!(
            check(&input),
            ["docs/errors.md: `model.timeout` has no section", "docs/errors.md: `model.timeuot` is in no source",]
        );
        let mut input = good();
        input.errors += &section("only.tested");
        input.errors += &section("fake.code");
        assert_eq!(check(&input).len(), 2, "what only tests name does not exist");
    }

    #[test]
    fn notes_and_limits_count() {
        for (from, to, code) in
            [("attempt.lost", "attempt.gone", "attempt.gone"), ("max_cost", "max_x", "budget.max_x")]
        {
            let mut input = good();
            let note = input.sources.get_mut("crates/runtime/src/note.rs").unwrap();
            *note = note.replace(from, to);
            assert!(check(&input).contains(&format!("docs/errors.md: `{code}` has no section")), "{code}");
        }
    }

    #[test]
    fn a_section_has_all_its_parts_and_is_there_once() {
        let mut input = good();
        input.errors = input.errors.replacen("**Remedy.**", "", 1);
        input.errors += &section("model.timeout");
        assert_eq!(
            check(&input),
            ["docs/errors.md: `attempt.lost` lacks **Remedy.**", "docs/errors.md: `model.timeout` has two sections",]
        );
    }

    #[test]
    fn metrics_and_rows_fit() {
        let mut input = good();
        input.metrics = input.metrics.replace("crewline_runs_total", "crewline_walks_total");
        assert_eq!(
            check(&input),
            [
                "docs/metrics.md: `crewline_runs_total` has no row",
                "docs/metrics.md: `crewline_walks_total` is in no source",
            ]
        );
    }

    #[test]
    fn a_dashboard_names_metrics_that_exist() {
        let mut input = good();
        input.config.insert("config/b.json".into(), "sum(crewline_runs_total_bucket) + crewline_lost_total".into());
        assert_eq!(
            check(&input),
            [
                "config/b.json: there is no metric `crewline_lost_total`",
                "config/b.json: there is no metric `crewline_runs_total_bucket`",
            ]
        );
    }

    #[test]
    fn a_scan_that_finds_nothing_fails() {
        let found = check(&Input::default());
        assert_eq!(found, ["no error code was found in the sources", "no metric was found in the sources"]);
    }

    #[test]
    fn literals_are_told_from_comments_characters_and_lifetimes() {
        let source = Source::of("f<'a>(\"a\\\"b\", 'x', '\"', '\\'', r#\"c\"d\"#) // \"e\"\n/* \"f\" */ \"ü\" \"g\"");
        let texts: Vec<&str> = source.literals.iter().map(|it| it.text.as_str()).collect();
        assert_eq!(texts, ["a\\\"b", "c\"d", "ü", "g"]);
        assert!(source.literals.iter().all(|it| source.code.as_bytes()[it.at] == b' '), "{}", source.code);
    }

    #[test]
    fn this_checkout_is_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let input = Input::read(root).unwrap();
        assert!(codes(&input.sources).len() > 80 && metrics(&input.sources).len() > 15, "the scan sees the sources");
        assert_eq!(check(&input), Vec::<String>::new());
    }
}
