//! Counts against those of the tokenizers' own programs, and under texts made to be slow.

use std::{fmt::Write as _, io::Write as _};

use sha2::{Digest as _, Sha256};

use super::*;

fn counts(text: &str) -> (u32, u32) {
    let count = |tokenizer: Tokenizer| tokenizer.load().unwrap().count(text).unwrap();
    (count(Tokenizer::Cl100k), count(Tokenizer::O200k))
}

/// As `tiktoken` counts them.
#[test]
fn texts_count_what_tiktoken_counts() {
    for (text, cl100k, o200k) in CASES {
        assert_eq!(counts(text), (*cl100k, *o200k), "{text:?}");
    }
    let long = "a".repeat(100_000);
    assert_eq!(counts(&long), (12_500, 12_500));
}

/// Texts, and what `cl100k_base` and `o200k_base` of `tiktoken` count for them.
const CASES: &[(&str, u32, u32)] = &[
    ("", 0, 0),
    ("a", 1, 1),
    (" ", 1, 1),
    ("\n", 1, 1),
    ("The quick brown fox jumps over the lazy dog.", 10, 10),
    ("fn main() {\n    println!(\"{}\", 12345);\n}\n", 12, 12),
    ("internationalization", 2, 2),
    ("HTTPServer getUserById snake_case_name", 7, 9),
    ("it's we'll I'D don't can’t", 10, 7),
    ("https://example.com/a/b?c=1", 10, 10),
    ("2026-01-31T12:00:00Z", 13, 13),
    ("1234567890", 4, 4),
    ("x = 3.14159 // pi", 9, 9),
    ("你好，世界", 6, 3),
    ("Привет, мир", 6, 4),
    ("모든 인간은 태어날 때부터 자유로우며", 21, 13),
    ("สว\u{e31}สด\u{e35}ชาวโลก", 13, 7),
    ("مرحبا بالعالم", 10, 4),
    ("Geschwindigkeitsüberschreitung", 11, 7),
    ("e\u{301}cole école", 5, 4),
    ("ǅ ʰ ٣ ² Ⅷ", 13, 12),
    ("😀😀 👨\u{200d}👩\u{200d}👧", 16, 10),
    ("a  b   c    d", 7, 7),
    ("a \n\n b\t\tc\r\n\r\nd", 7, 7),
    ("trailing   ", 3, 3),
    ("   leading", 2, 2),
    ("\u{a0}\u{2003}x\u{2028}y\u{85}z", 10, 8),
    ("///\n//\n", 2, 3),
    ("```rust\nlet x = 1;\n```\n\nSource: task:k3v9x0ab\n", 22, 22),
    ("<|endoftext|>", 7, 7),
    ("dGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIDEzIGxhenkgZG9ncw==", 39, 38),
    ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", 43, 43),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 6, 6),
    ("\0\u{feff}\u{200b}", 3, 3),
];

/// The vocabularies are the files that OpenAI publishes, byte for byte.
#[test]
fn vocabularies_are_those_that_are_published() {
    const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (published, hash) in [
        (bpe::CL100K, "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"),
        (bpe::O200K, "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"),
    ] {
        let mut lines = String::new();
        for (rank, token) in Bpe::new(&published).unwrap().tokens().enumerate() {
            for chunk in token.chunks(3) {
                let bits = chunk.iter().chain(&[0; 3]).take(3).fold(0, |bits, byte| bits << 8 | usize::from(*byte));
                let letters = [18, 12, 6, 0].map(|shift| char::from(BASE64[bits >> shift & 63]));
                lines.extend(&letters[..=chunk.len()]);
                lines.push_str(&"=="[..3 - chunk.len()]);
            }
            writeln!(lines, " {rank}").unwrap();
        }
        let digest = Sha256::digest(&lines);
        assert_eq!(digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")), hash);
    }
}

/// Four times the text takes four times as long, not sixteen times.
#[test]
#[cfg(target_os = "linux")]
fn no_text_takes_quadratic_time() {
    // CPU time of this thread: what else the machine does is not in it. Who has yielded is counted up to the moment.
    let cpu = || -> u64 {
        std::thread::yield_now();
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let bpe = Bpe::new(&bpe::O200K).unwrap();
    let time = |text: &str| {
        let begun = cpu();
        bpe.count(text);
        cpu() - begun
    };
    for unit in ["a", " ", "ab", "\n", " \n", "!?", "😀", "中"] {
        let few = unit.repeat((32 << 10) / unit.len());
        let least = |text: &str| (0..3).map(|_| time(text)).min().unwrap();
        let (short, long) = (least(&few), least(&few.repeat(4)));
        assert!(long < short * 10, "{unit:?}: {short} ns, then {long} ns");
    }
}

#[test]
fn parts_that_begin_with_a_letter_add_up() {
    for tokenizer in [Tokenizer::Cl100k, Tokenizer::O200k] {
        let counter = tokenizer.load().unwrap();
        assert!(counter.adds_up());
        for end in ["```\n\n", "\n", " \n\n", "\r\n\n", "/\n", "\u{a0}\n", "'s\n"] {
            let (one, two) = (format!("Some text{end}"), "Source: task:k3v9x0ab\n");
            let both = counter.count(&format!("{one}{two}")).unwrap();
            assert_eq!(both, counter.count(&one).unwrap() + counter.count(two).unwrap(), "{end:?}");
        }
    }
}

#[test]
fn models_are_known_by_their_names() {
    for (model, tokenizer) in [
        ("gpt-4o", Tokenizer::O200k),
        ("gpt-4.1-mini", Tokenizer::O200k),
        ("openai/gpt-4.1-mini", Tokenizer::O200k),
        ("openai/gpt-4o:extended", Tokenizer::O200k),
        ("ft:gpt-4o-mini-2024-07-18:me::x", Tokenizer::O200k),
        ("gpt-5", Tokenizer::O200k),
        ("GPT-5.1-codex", Tokenizer::O200k),
        ("o3-mini", Tokenizer::O200k),
        ("gpt-oss:20b", Tokenizer::O200k),
        ("gpt-4", Tokenizer::Cl100k),
        ("gpt-4-turbo", Tokenizer::Cl100k),
        ("gpt-3.5-turbo", Tokenizer::Cl100k),
        ("gpt-35-turbo", Tokenizer::Cl100k),
        ("gpt-4.2", Tokenizer::Estimate),
        ("gpt-50", Tokenizer::Estimate),
        ("gpt-2", Tokenizer::Estimate),
        ("o1lama", Tokenizer::Estimate),
        ("claude-haiku-4-5", Tokenizer::Estimate),
        ("qwen2.5-7b-instruct", Tokenizer::Estimate),
        ("", Tokenizer::Estimate),
    ] {
        assert_eq!(Tokenizer::of_model(model), tokenizer, "{model}");
    }
    assert_eq!(Tokenizer::Estimate.load().unwrap().count("text"), None);
}

/// A word is a token, and nothing is cut at the length the model was trained with.
const WORDS: &str = r#"{
    "version": "1.0",
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
                "pad_token": "[UNK]"},
    "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "crew": 1}, "unk_token": "[UNK]"}
}"#;

#[test]
fn a_file_counts_whole_texts_and_is_named_by_its_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, WORDS).unwrap();
    let counter = Tokenizer::File(path.clone()).load().unwrap();
    assert_eq!(counter.count("crew and crew, six words"), Some(6));
    assert_eq!(counter.count(""), Some(0));
    assert_eq!(&**counter.name(), format!("tokenizer:{}", crewline_types::TextHash::of(WORDS)));
    assert!(counter.is_exact() && !counter.adds_up());
    // Another file at the same place is another tokenizer.
    std::fs::File::options().append(true).open(&path).unwrap().write_all(b"\n").unwrap();
    let other = Tokenizer::File(path.clone()).load().unwrap();
    assert_ne!(other.name(), counter.name());

    std::fs::write(&path, "{}").unwrap();
    assert!(Tokenizer::File(path.clone()).load().unwrap_err().starts_with("it is no tokenizer: "));
    assert_eq!(Tokenizer::File(folder.path().to_owned()).load().unwrap_err(), "it is not a file");
    let gone = Tokenizer::File(folder.path().join("none.json")).load().unwrap_err();
    assert!(gone.contains("No such file"), "{gone}");
}
