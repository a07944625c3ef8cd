//! Long texts in pieces that keep together what belongs together.
//!
//! A piece ends, in this order of preference, before a heading, between paragraphs or code blocks, between lines,
//! between sentences, between words, between characters.
//!
//! **Invariant:** the pieces are slices of the text, in order, and leave out white space only.
//! **Invariant:** no piece is larger than asked for; a fenced code block that fits is never cut.

/// A share of the limit from which a heading begins a new piece rather than filling the last.
const HEADING_SHARE: usize = 2;

/// A cautious guess of the tokens of `text`: one for four ASCII bytes, one for every other character.
pub fn estimate_tokens(text: &str) -> usize {
    let (mut ascii, mut wide) = (0, 0);
    for byte in text.bytes() {
        ascii += usize::from(byte.is_ascii());
        // Leading bytes only: one for each character.
        wide += usize::from(byte >= 0xc0);
    }
    ascii.div_ceil(4) + wide
}

/// Cuts `text` into pieces of at most `tokens_max` by [`estimate_tokens`].
pub fn chunk(text: &str, tokens_max: usize) -> Vec<&str> {
    let tokens_max = tokens_max.max(1);
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for block in blocks(text) {
        let grown = &text[start..block.end];
        let fits = estimate_tokens(grown) <= tokens_max;
        let filled = estimate_tokens(&text[start..end]);
        if end > start && (!fits || (block.is_heading && filled * HEADING_SHARE >= tokens_max)) {
            push(&text[start..end], &mut chunks);
            start = block.start;
        }
        end = block.end;
        if estimate_tokens(&text[start..end]) > tokens_max {
            // Alone, and still too large.
            start = end - split(&text[start..end], tokens_max, &mut chunks).len();
        }
    }
    push(&text[start..end.max(start)], &mut chunks);
    chunks
}

struct Block {
    start: usize,
    end: usize,
    is_heading: bool,
    /// Nothing but headings so far: what follows belongs to them.
    is_bare: bool,
}

/// Paragraphs, fenced code blocks, and headings together with what follows them.
fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut fence: Option<&str> = None;
    let mut is_open = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, end) = (at, at + line.len());
        at = end;
        let trimmed = line.trim();
        if let Some(mark) = fence {
            if let Some(block) = blocks.last_mut() {
                block.end = end;
            }
            // A fence is closed by the same mark, at least as long, and nothing else.
            if trimmed.starts_with(mark) && trimmed.trim_start_matches(&mark[..1]).is_empty() {
                fence = None;
                is_open = false;
            }
            continue;
        }
        if trimmed.is_empty() {
            is_open = false;
            continue;
        }
        let mark = fence_mark(trimmed);
        let is_heading = mark.is_none() && is_heading(trimmed);
        // Headings stay with what follows them; a paragraph goes on to the next blank line.
        match blocks.last_mut() {
            Some(last) if last.is_bare || (is_open && !is_heading && mark.is_none()) => {
                last.end = end;
                last.is_bare &= is_heading;
            }
            Some(_) | None => blocks.push(Block { start, end, is_heading, is_bare: is_heading }),
        }
        is_open = !is_heading;
        fence = mark;
    }
    blocks
}

fn fence_mark(line: &str) -> Option<&str> {
    ["`", "~"].iter().find_map(|tick| {
        let length = line.len() - line.trim_start_matches(tick).len();
        (length >= 3).then(|| &line[..length])
    })
}

fn is_heading(line: &str) -> bool {
    let hashes = line.len() - line.trim_start_matches('#').len();
    (1..=6).contains(&hashes) && line[hashes..].starts_with(' ')
}

/// Pushes full pieces of a text that is too large, and gives back the rest, which fits.
fn split<'a>(mut text: &'a str, tokens_max: usize, chunks: &mut Vec<&'a str>) -> &'a str {
    while estimate_tokens(text) > tokens_max {
        let room = room(text, tokens_max);
        let head = &text[..room];
        // Not too early: a border in the first half leaves small pieces behind.
        let late = |at: &usize| *at * 2 >= room;
        let at = border(head, "\n")
            .filter(late)
            .or_else(|| [". ", "! ", "? ", "。"].iter().filter_map(|end| border(head, end)).max().filter(late))
            .or_else(|| head.rfind(char::is_whitespace).filter(|at| *at > 0))
            .unwrap_or(room);
        push(&text[..at], chunks);
        text = &text[at..];
    }
    text
}

/// Behind the last `mark` of `text`.
fn border(text: &str, mark: &str) -> Option<usize> {
    text.rfind(mark).map(|at| at + mark.len())
}

/// The longest beginning of `text` that fits, at least one character.
fn room(text: &str, tokens_max: usize) -> usize {
    let (mut ascii, mut wide) = (0_usize, 0_usize);
    for (at, char) in text.char_indices() {
        if char.is_ascii() {
            ascii += 1;
        } else {
            wide += 1;
        }
        if ascii.div_ceil(4) + wide > tokens_max {
            return if at == 0 { char.len_utf8() } else { at };
        }
    }
    text.len()
}

fn push<'a>(piece: &'a str, chunks: &mut Vec<&'a str>) {
    // Indentation of the first line belongs to code.
    let lines = piece.trim_end();
    let blank = lines.len() - lines.trim_start().len();
    let first = lines[..blank].rfind('\n').map_or(0, |at| at + 1);
    if !lines[first..].is_empty() {
        chunks.push(&lines[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_texts_stay_whole() {
        assert_eq!(chunk("a paragraph\n\nanother\n", 100), ["a paragraph\n\nanother"]);
        assert!(chunk(" \n\n ", 10).is_empty());
        assert!(chunk("", 10).is_empty());
    }

    #[test]
    fn paragraphs_are_borders() {
        let text = "one two three four five six\n\nseven eight nine ten\n\neleven";
        assert_eq!(chunk(text, 8), ["one two three four five six", "seven eight nine ten\n\neleven"]);
    }

    #[test]
    fn a_heading_goes_with_what_follows() {
        let text = "intro text that fills it up\n\n# Title\n\nbody of it\n";
        assert_eq!(chunk(text, 12), ["intro text that fills it up", "# Title\n\nbody of it"]);
        let text = "intro text that fills it up\n\n# Title\n## Part\n\nbody of it\n";
        assert_eq!(chunk(text, 12), ["intro text that fills it up", "# Title\n## Part\n\nbody of it"]);
    }

    #[test]
    fn a_code_block_that_fits_is_not_cut() {
        let code = "```rust\nfn a() {}\n\nfn b() {}\n\n# not a heading\n```";
        let text = format!("Some words before the code.\n\n{code}\n\nand after");
        let chunks = chunk(&text, 14);
        assert!(chunks.contains(&code), "{chunks:?}");
    }

    #[test]
    fn large_code_is_cut_between_lines_and_keeps_its_indentation() {
        let text = format!("```\n{}```", "    let x = 1;\n".repeat(20));
        for piece in &chunk(&text, 16)[1..] {
            assert!(piece.starts_with("    let") || *piece == "```", "{piece:?}");
        }
    }

    #[test]
    fn nothing_is_lost_and_nothing_is_too_large() {
        let mut random = fastrand::Rng::with_seed(11);
        let parts =
            ["# H\n", "```\n", "word ", "\n\n", "Sentence. ", "漢字", "\n", "    code\n", "~~~\n", "ünï", "longword"];
        for round in 0..300 {
            let text: String = (0..random.usize(..80)).map(|_| *random.choice(&parts[..]).unwrap()).collect();
            let tokens_max = random.usize(1..30);
            let chunks = chunk(&text, tokens_max);
            let squeeze = |text: &str| text.split_whitespace().collect::<String>();
            assert_eq!(squeeze(&chunks.concat()), squeeze(&text), "round {round}: {text:?}");
            for piece in chunks {
                assert!(estimate_tokens(piece) <= tokens_max, "round {round}: {piece:?} of {text:?}");
            }
        }
    }
}
