//! Whose words a question asks for: an agent it names, the person who asks, or the one who answered.
//!
//! A memory's agent is who said it. "What did Caroline paint?" looks for what Caroline said; "When does my sprint end?"
//! for what the person said; "What did you recommend?" for what the others answered.
//!
//! **Invariant:** pure; the same question and the same agents give the same answer, in any order of the agents.

use std::sync::Arc;

use crate::text;

/// Agents that stand for a person who talks with the crew.
const PEOPLE: [&str; 6] = ["user", "human", "person", "customer", "client", "me"];
/// Agents whose names are common words: they are addressed, not named.
const COMMON: [&str; 5] = ["assistant", "agent", "ai", "system", "model"];
const SELF: [&str; 9] = ["i", "my", "me", "mine", "myself", "we", "our", "ours", "us"];
/// What somebody who answers does.
const ANSWERS: [&str; 17] = [
    "recommend",
    "suggest",
    "advise",
    "propose",
    "say",
    "said",
    "tell",
    "told",
    "give",
    "gave",
    "explain",
    "mention",
    "describe",
    "provide",
    "list",
    "answer",
    "write",
];
/// Shortest part of a name that names somebody.
const NAME_MIN: usize = 3;

/// What one agent is to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    /// The question names it.
    Named,
    /// It is the person who asks about themselves.
    Asker,
    /// It is a person, and the question does not say whose words it is about.
    Person,
    /// The question is about what the others answered, and it is one of them.
    Answerer,
    /// Nothing.
    Other,
}

/// Whose words a question is about.
#[derive(Debug, Default)]
pub(crate) struct Address {
    named: Vec<Arc<str>>,
    /// The terms that name them; they are in what others say to them rather than in what they say.
    pub(crate) names: Vec<String>,
    is_of_self: bool,
    is_of_answers: bool,
}

impl Address {
    /// Reads `question`, asked where `agents` have spoken.
    pub(crate) fn of<'a>(question: &str, agents: impl Iterator<Item = &'a Arc<str>>) -> Self {
        let mut buffer = String::new();
        let mut terms: Vec<String> = Vec::new();
        text::terms(question, &mut buffer, |term| terms.push(term.to_owned()));
        let mut address = Self::default();
        for agent in agents {
            if is_one_of(agent, &PEOPLE) || is_one_of(agent, &COMMON) {
                continue;
            }
            let mut parts = Vec::new();
            text::terms(agent, &mut buffer, |term| parts.push(term.to_owned()));
            parts.retain(|part| part.len() >= NAME_MIN && !text::is_stop(part) && terms.contains(part));
            if !parts.is_empty() {
                address.named.push(Arc::clone(agent));
                address.names.extend(parts);
            }
        }
        let words: Vec<String> = words(question);
        address.is_of_self = words.iter().any(|word| SELF.contains(&word.as_str()));
        address.is_of_answers = words.windows(2).any(|pair| {
            let [first, second] = pair else { return false };
            let is_you = |word: &str| word == "you";
            (is_you(second) && ["did", "do", "had", "have"].contains(&first.as_str()))
                || (is_you(first) && ANSWERS.iter().any(|verb| second.starts_with(verb)))
                || (first == "your" && ANSWERS.iter().any(|verb| second.starts_with(verb)))
        });
        address
    }

    /// What `agent` is to the question.
    pub(crate) fn party(&self, agent: &str) -> Party {
        if self.named.iter().any(|named| **named == *agent) {
            return Party::Named;
        }
        let is_person = is_one_of(agent, &PEOPLE);
        match (is_person, self.is_of_self, self.is_of_answers) {
            (true, true, _) => Party::Asker,
            (true, false, false) => Party::Person,
            (false, _, true) => Party::Answerer,
            (true, false, true) | (false, _, false) => Party::Other,
        }
    }
}

fn is_one_of(agent: &str, names: &[&str]) -> bool {
    names.iter().any(|name| agent.eq_ignore_ascii_case(name))
}

fn words(text: &str) -> Vec<String> {
    text.split(|char: char| !char.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(question: &str, expect: &[(&str, Party)]) {
        let agents: Vec<Arc<str>> = expect.iter().map(|(agent, _)| Arc::from(*agent)).collect();
        let address = Address::of(question, agents.iter());
        let found: Vec<_> = expect.iter().map(|(agent, _)| (*agent, address.party(agent))).collect();
        assert_eq!(found, expect, "{question}");
    }

    #[test]
    fn named_agents() {
        check("What did Caroline paint?", &[("Caroline", Party::Named), ("Melanie", Party::Other)]);
        check(
            "what did the tester find",
            &[("tester", Party::Named), ("coder", Party::Other), ("user", Party::Person)],
        );
        check("Anna's dog", &[("Anna Smith", Party::Named), ("user", Party::Person)]);
        check("AI user roles", &[("assistant", Party::Other), ("ai", Party::Other), ("user", Party::Person)]);
    }

    #[test]
    fn the_person_and_the_others() {
        let both = |user, other| [("user", user), ("assistant", other)];
        check("When does my sprint end?", &both(Party::Asker, Party::Other));
        check("When does the sprint end?", &both(Party::Person, Party::Other));
        check("What did you recommend?", &both(Party::Other, Party::Answerer));
        check("What did you recommend for my resume?", &both(Party::Asker, Party::Answerer));
        check("your suggestions", &both(Party::Other, Party::Answerer));
        check("Can you help me?", &both(Party::Asker, Party::Other));
        check("", &both(Party::Person, Party::Other));
    }
}
