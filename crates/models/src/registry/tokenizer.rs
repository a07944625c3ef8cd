//! How a model's tokens are counted: the name or file that the registry says, else what the model's name tells.

use super::{Invalid, Problem, Registry, check::Check, file::Model, shape::suggestion, spans};
use crate::tokens::{Tokenizer, look};

const HELP: &str = "allowed: `o200k`, `cl100k`, `estimate`, or the path of a `tokenizer.json` relative to the registry";

impl Check<'_> {
    pub(super) fn tokenizer(&mut self, alias: &str, entry: &Model) -> Tokenizer {
        let Some(text) = entry.tokenizer.as_deref().map(str::trim) else { return Tokenizer::of_model(&entry.model) };
        if let Some(named) = Tokenizer::named(text) {
            return named;
        }
        let path = ["models", alias, "tokenizer"];
        if !text.contains(['/', '.']) {
            let help = suggestion(text, Tokenizer::NAMES.into_iter(), HELP);
            self.report(&path, format!("there is no tokenizer `{text}`"), help);
            return Tokenizer::Estimate;
        }
        match self.resolve(text).and_then(|file| look(&file).map(|()| file)) {
            Ok(file) => Tokenizer::File(file),
            Err(reason) => {
                self.report(&path, format!("the tokenizer `{text}` cannot be read: {reason}"), HELP);
                Tokenizer::Estimate
            }
        }
    }
}

impl Registry {
    /// Reads the files of tokenizers as well, which takes up to a second each: whether they are what they should be.
    pub fn check_tokenizers(&self) -> Result<(), Invalid> {
        // It was parsed from this text once.
        let Ok(root) = spans::parse(&self.text) else { return Ok(()) };
        let mut problems = Vec::new();
        for model in self.models() {
            if let Err(reason) = model.tokenizer.load() {
                let alias = model.spec.alias.as_str();
                let message = format!("the tokenizer of `{alias}` cannot be used: {reason}");
                let help = "the file is the `tokenizer.json` of the model; without it write `estimate`";
                problems.push(Problem::new(&self.text, root.span_at(&["models", alias, "tokenizer"]), message, help));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Invalid { name: self.name.clone(), source: self.text.to_string(), problems })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(models: &str) -> String {
        format!("version: 1\nproviders:\n  p: {{type: ollama}}\nmodels:\n{models}roles:\n  default: {{chain: [a]}}\n")
    }

    fn model(name: &str, more: &str) -> String {
        format!("  {name}: {{provider: p, model: {name}, context_window: 1000{more}}}\n")
    }

    #[test]
    fn a_tokenizer_is_a_name_or_a_file_or_known_by_the_model() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("crewline.yaml");
        std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        let models = [
            model("a", ""),
            model("gpt-4o", ""),
            model("gpt-4.1", ", tokenizer: estimate"),
            model("b", ", tokenizer: cl100k"),
            model("c", ", tokenizer: tokenizer.json"),
        ];
        std::fs::write(&path, text(&models.concat())).unwrap();
        let registry = Registry::load(&path, &|_| None).unwrap();
        let said: Vec<&Tokenizer> = registry.models().map(|it| &it.tokenizer).collect();
        let file = Tokenizer::File(folder.path().join("tokenizer.json"));
        assert_eq!(said, [&Tokenizer::Estimate, &Tokenizer::O200k, &Tokenizer::Estimate, &Tokenizer::Cl100k, &file]);
        // What is in the file is looked at when it is asked for, and when tokens are to be counted.
        let problem = registry.check_tokenizers().unwrap_err().problems.remove(0);
        assert_eq!((problem.line, problem.column), (9, 63));
        assert!(
            problem.message.starts_with("the tokenizer of `c` cannot be used: it is no tokenizer: "),
            "{problem:?}"
        );
        assert!(problem.help.unwrap().contains("`estimate`"));
    }

    #[test]
    fn a_wrong_tokenizer_is_told_with_its_place() {
        for (tokenizer, message, help) in [
            ("o200", "there is no tokenizer `o200`", "did you mean `o200k`? allowed: `o200k`, `cl100k`"),
            (
                "none/tokenizer.json",
                "the tokenizer `none/tokenizer.json` cannot be read: No such file",
                "allowed: `o200k`",
            ),
            ("/", "the tokenizer `/` cannot be read: it is not a file", "allowed: `o200k`"),
        ] {
            let text = text(&model("a", &format!(", tokenizer: {tokenizer}")));
            let problem = Registry::parse(&text, "test", &|_| None).unwrap_err().problems.remove(0);
            assert_eq!((problem.line, problem.column), (5, 63), "{problem:?}");
            assert!(problem.message.starts_with(message), "{problem:?}");
            assert!(problem.help.as_ref().unwrap().starts_with(help), "{problem:?}");
        }
    }
}
