//! Text for terminals: colours, widths, tables, amounts.
//!
//! **Invariant:** text that a model or a file made reaches a terminal only through [`clean`]: no control character survives.

use std::{borrow::Cow, fmt::Write as _, time::Duration};

use crewline_types::{MicroUsd, Usage};

/// How text may look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    /// Whether colours are wanted.
    pub(crate) is_colored: bool,
}

impl Style {
    /// No colours.
    pub(crate) const PLAIN: Self = Self { is_colored: false };

    fn paint(self, code: &str, text: &str) -> String {
        if self.is_colored { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// For headings.
    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// For what matters less.
    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    /// For what failed.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// For what is done.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For what is degraded.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// For what is going on.
    pub(crate) fn cyan(self, text: &str) -> String {
        self.paint("36", text)
    }
}

/// One line without control characters, so that no text can move the cursor or set a title.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().any(is_bad) {
        Cow::Owned(text.chars().map(|c| if is_bad(c) { ' ' } else { c }).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// The same for a text of many lines.
pub(crate) fn clean_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(clean).collect();
    lines.join("\n")
}

/// Columns a character takes; an approximation of Unicode's East Asian width.
fn char_width(c: char) -> usize {
    match c {
        '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200d}' | '\u{fe00}'..='\u{fe0f}' => 0,
        '\u{1100}'..='\u{115f}'
        | '\u{2e80}'..='\u{a4cf}'
        | '\u{ac00}'..='\u{d7a3}'
        | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}'
        | '\u{ff00}'..='\u{ff60}'
        | '\u{ffe0}'..='\u{ffe6}'
        | '\u{1f300}'..='\u{1faff}'
        | '\u{20000}'..='\u{3fffd}' => 2,
        _ => 1,
    }
}

/// Columns a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// At most `columns` columns, with `…` where something was cut.
pub(crate) fn fit(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut taken = String::new();
    let mut used = 0;
    for c in text.chars() {
        if used + char_width(c) + 1 > columns {
            break;
        }
        used += char_width(c);
        taken.push(c);
    }
    if columns > 0 {
        taken.push('…');
    }
    Cow::Owned(taken)
}

/// Exactly `columns` columns: cut or padded on the right.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    let mut text = fit(text, columns).into_owned();
    let missing = columns.saturating_sub(width(&text));
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// `1.2 s`, `340 ms`, `2 m 05 s`.
pub(crate) fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    let seconds = time.as_secs();
    if ms < 1_000 {
        format!("{ms} ms")
    } else if seconds < 60 {
        format!("{}.{} s", seconds, ms % 1_000 / 100)
    } else if seconds < 3_600 {
        format!("{} m {:02} s", seconds / 60, seconds % 60)
    } else {
        format!("{} h {:02} m", seconds / 3_600, seconds % 3_600 / 60)
    }
}

/// `$0.0012`: at least four digits after the point, more when there is less.
pub(crate) fn cost(cost: MicroUsd, unpriced_calls: u64) -> String {
    let text = match cost.0 {
        0 => "$0".to_owned(),
        1..1_000 => format!("${:.6}", cost.as_usd()),
        _ => format!("${:.4}", cost.as_usd()),
    };
    match (unpriced_calls, cost.0) {
        (0, _) => text,
        (_, 0) => "unknown".to_owned(),
        (_, _) => format!("{text} + unknown"),
    }
}

/// `1,234`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes for people: `4.1 GB`.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes % 1_000_000_000 / 100_000_000),
    }
}

/// `340→120`: tokens sent and received.
pub(crate) fn tokens(usage: &Usage) -> String {
    let about = if usage.estimated { "~" } else { "" };
    format!("{about}{}→{}", count(usage.input_tokens), count(usage.output_tokens))
}

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table with aligned columns, a line each row, no trailing blanks.
pub(crate) fn table(style: Style, columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, (name, _))| {
            rows.iter().filter_map(|row| row.get(at)).map(|cell| width(cell)).fold(width(name), usize::max)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, columns), (_, align)) in cells.zip(&widths).zip(columns) {
            let gap = columns.saturating_sub(width(cell));
            if !line.is_empty() {
                line.push_str("  ");
            }
            match align {
                Align::Left => _ = write!(line, "{cell}{:gap$}", ""),
                Align::Right => _ = write!(line, "{:gap$}{cell}", ""),
            }
        }
        line.truncate(line.trim_end().len());
        line
    };
    let mut text = style.bold(&line(&mut columns.iter().map(|(name, _)| *name)));
    for row in rows {
        text.push('\n');
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_is_tamed() {
        assert_eq!(clean("plain"), "plain");
        assert_eq!(clean("a\u{1b}]0;title\u{7}b\nc\u{202e}d"), "a ]0;title b c d");
        assert_eq!(clean_lines("a\u{1b}[2J\r\n  b\n"), "a [2J\n  b");
    }

    #[test]
    fn texts_fit_by_columns_not_characters() {
        assert_eq!(fit("short", 5), "short");
        assert_eq!(fit("longer", 5), "long…");
        assert_eq!(fit("日本語文", 5), "日本…");
        assert_eq!(pad("日本", 6), "日本  ");
        assert_eq!(fit("x", 0), "");
    }

    #[test]
    fn amounts_are_short() {
        assert_eq!(duration(Duration::from_millis(340)), "340 ms");
        assert_eq!(duration(Duration::from_millis(1_290)), "1.2 s");
        assert_eq!(duration(Duration::from_secs(125)), "2 m 05 s");
        assert_eq!(duration(Duration::from_mins(121)), "2 h 01 m");
        assert_eq!(cost(MicroUsd(0), 0), "$0");
        assert_eq!(cost(MicroUsd(12), 0), "$0.000012");
        assert_eq!(cost(MicroUsd(1_234_567), 0), "$1.2346");
        assert_eq!(cost(MicroUsd(0), 2), "unknown");
        assert_eq!(cost(MicroUsd(10_000), 2), "$0.0100 + unknown");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!([512, 4_100_000, 4_190_000_000].map(bytes), ["1 kB", "4 MB", "4.1 GB"]);
    }

    #[test]
    fn tables_are_aligned() {
        let text = table(
            Style::PLAIN,
            &[("MODEL", Align::Left), ("CALLS", Align::Right)],
            &[vec!["cheap".into(), "12".into()], vec!["日本".into(), "3".into()]],
        );
        assert_eq!(text, "MODEL  CALLS\ncheap     12\n日本       3");
    }
}
