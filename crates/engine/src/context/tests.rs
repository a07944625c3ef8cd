//! The bundle under hostile texts.

use proptest::prelude::*;

use super::*;
use crate::schedule::simulation::Rng;

/// Texts that break what counts, cuts and fences.
pub(crate) fn hostile_text() -> impl Strategy<Value = String> {
    let piece = (0_u8..18, 1_usize..20, any::<char>());
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| {
        let mut text = String::new();
        for (kind, len, any) in pieces {
            match kind {
                0..=3 => text.extend("abcdefghijklmnopqrstuvwxyz".chars().cycle().skip(len * 7).take(len)),
                4 => text.push_str("We decided on it because 12 of `them` failed. "),
                5 => text.push_str("Then another sentence follows here! "),
                6 => text.push_str("```rust\nfn a() {}\nlet b = 2;\n```\n"),
                7 => text.extend(std::iter::repeat_n('`', len)),
                8 => text.extend(std::iter::repeat_n(' ', len)),
                9 => text.push_str("\n## Heading\n"),
                10 => text.extend(std::iter::repeat_n('\n', len % 4)),
                11 => text.extend(std::iter::repeat_n('7', len)),
                12 => text.extend("一个长的中文句子没有空格也没有标点。".chars().take(len)),
                13 => text.extend("Длинное русское предложение".chars().take(len)),
                14 => text.extend(std::iter::repeat_n('😀', len % 4)),
                15 => text.extend("aB3dE5gH1jK/mN+pQ_sT-vW".chars().take(len)),
                16 => text.push_str(["\r\n", "\r", "\u{2028}", "\0", "\u{feff}", "\t", "{}();"][len % 7]),
                _ => text.push(any),
            }
            if len % 2 == 0 {
                text.push(' ');
            }
        }
        text
    })
}

fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![
        Just(Tier::Index),
        Just(Tier::Pinned),
        Just(Tier::Requires),
        Just(Tier::Requires),
        Just(Tier::Refers),
        Just(Tier::Siblings),
        Just(Tier::Retrieved),
        Just(Tier::Manual),
    ]
}

pub(crate) fn hostile_item() -> impl Strategy<Value = Item> {
    let name = prop_oneof![4 => (0_u32..9).prop_map(|it| format!("task:k3v9x0a{it}")).boxed(), 1 => Just("a".to_owned()).boxed(), 1 => hostile_text().boxed()];
    let text = prop_oneof![8 => hostile_text().boxed(), 1 => (0_usize..200).prop_map(|it| "`".repeat(it)).boxed(), 1 => Just("the same".to_owned()).boxed()];
    let score = prop_oneof![Just(0.0), Just(-0.0), Just(1.0), Just(f32::NAN), any::<f32>()];
    (tier(), name.clone(), prop_oneof![Just("result"), Just("")], name, text, score).prop_map(
        |(tier, source, kind, title, text, score)| Item {
            tier,
            source: source.into(),
            kind: kind.into(),
            title: title.into(),
            text: text.into(),
            score,
        },
    )
}

proptest! {
    #![proptest_config(crate::cases::cases(2_000))]

    #[test]
    fn a_bundle_never_exceeds_its_budget(
        items in proptest::collection::vec(hostile_item(), 0..12),
        tokens_max in prop_oneof![0_u32..100, 100_u32..1_500],
        seed in 0_u64..1_000,
    ) {
        let bundle = assemble(&items, tokens_max);
        let text = render(&bundle);
        let tokens = estimate_tokens(&text);
        prop_assert!(tokens <= tokens_max, "{} > {}", tokens, tokens_max);
        prop_assert_eq!(bundle.tokens, tokens);
        prop_assert_eq!(bundle.parts.iter().map(|it| it.tokens).sum::<u32>(), tokens);
        prop_assert_eq!(bundle.provenance.len(), items.len());
        prop_assert_eq!(bundle.provenance.iter().map(|it| it.tokens).sum::<u32>(), tokens);
        let left_out = bundle.provenance.iter().filter(|it| it.form == Form::LeftOut).count();
        prop_assert_eq!(left_out + bundle.parts.len(), items.len());
        prop_assert!(bundle.parts.is_sorted_by_key(|it| it.tier));
        for part in &bundle.parts {
            let is_line = |it: &str| it.lines().count() <= 1 && !it.contains('\n');
            prop_assert!(is_line(&part.source) && is_line(&part.kind) && is_line(&part.title));
            // The fence holds: no line of the text is as long a run of backticks as its fence.
            let fence = "`".repeat(render::fence_len(&part.text) as usize);
            prop_assert!(!part.text.contains(&fence));
        }

        let mut shuffled = items.clone();
        let mut rng = Rng::new(seed);
        for index in (1..shuffled.len()).rev() {
            shuffled.swap(index, rng.index(index + 1));
        }
        let again = assemble(&shuffled, tokens_max);
        prop_assert_eq!(render(&again), text);
        prop_assert_eq!(serde_json::to_string(&again.provenance).unwrap(), serde_json::to_string(&bundle.provenance).unwrap());
        prop_assert_eq!(again, bundle);
    }
}

fn item(tier: Tier, source: &str, text: &str, score: f32) -> Item {
    let (kind, title) = ("result".into(), format!("About {source}").into());
    Item { tier, source: source.into(), kind, title, text: text.into(), score }
}

fn words(count: usize, seed: u64) -> String {
    let mut rng = Rng::new(seed);
    let mut text = String::new();
    for index in 0..count {
        text.push_str(["crew ", "plan ", "task ", "model ", "store ", "memory ", "actor "][rng.index(7)]);
        if index % 12 == 11 {
            text.push_str("end. Next ");
        }
    }
    text
}

fn forms(bundle: &Bundle) -> Vec<(&str, Form)> {
    bundle.provenance.iter().map(|it| (&*it.source, it.form)).collect()
}

#[test]
fn what_fits_is_whole_and_in_order() {
    let items = [
        item(Tier::Manual, "m", "manual", 0.0),
        item(Tier::Retrieved, "r2", "recalled two", 0.2),
        item(Tier::Retrieved, "r9", "recalled nine", 0.9),
        item(Tier::Requires, "b", "required b", 0.0),
        item(Tier::Requires, "a", "required a", 0.0),
        item(Tier::Index, "index", "the index", 0.0),
    ];
    let bundle = assemble(&items, 1_000);
    let sources: Vec<&str> = bundle.parts.iter().map(|it| &*it.source).collect();
    assert_eq!(sources, ["index", "a", "b", "r9", "r2", "m"]);
    assert!(bundle.provenance.iter().all(|it| it.form == Form::Whole && it.reason == "fits"));
    // Whole texts are shared, not copied.
    assert!(Arc::ptr_eq(&bundle.parts[0].text, &items[5].text.body));
    assert_eq!(bundle.provenance[0].text, items[5].text.hash);
}

#[test]
fn nearer_tiers_go_first() {
    let large = words(400, 1);
    let items = [
        item(Tier::Requires, "a", &large, 0.0),
        item(Tier::Retrieved, "r", &words(300, 2), 1.0),
        item(Tier::Pinned, "p", &words(50, 3), 0.0),
    ];
    let tight = assemble(&items, 500);
    assert_eq!(forms(&tight), [("p", Form::Whole), ("a", Form::Summary), ("r", Form::LeftOut)]);
    assert_eq!(tight.provenance[2].reason, "no budget left");
    assert!(tight.tokens > 400, "{} of 500 used", tight.tokens);
    // A large index does not take what the task requires.
    let items = [item(Tier::Index, "index", &words(900, 4), 0.0), item(Tier::Requires, "a", "It is 42.", 0.0)];
    let bundle = assemble(&items, 400);
    assert_eq!(forms(&bundle)[1], ("a", Form::Whole));
    assert!(bundle.tokens > 300);
}

#[test]
fn requirements_share_fairly() {
    let mut items =
        vec![item(Tier::Requires, "huge", &words(5_000, 1), 1.0), item(Tier::Requires, "small", "It is 42.", 0.0)];
    items.extend((0..8).map(|it| item(Tier::Requires, &format!("large{it}"), &words(600, it + 2), 0.5)));
    let bundle = assemble(&items, 2_000);
    assert_eq!(bundle.parts.len(), 10, "every requirement is in");
    let texts = |it: &Part| estimate_tokens(&it.text);
    let large: Vec<u32> = bundle.parts.iter().filter(|it| &*it.source != "small").map(texts).collect();
    let (least, most) = (large.iter().min().unwrap(), large.iter().max().unwrap());
    assert!(most - least < most / 3, "{large:?}");
    assert!(bundle.tokens > 1_700, "{} of 2000 used", bundle.tokens);
    assert!(forms(&bundle).contains(&("small", Form::Whole)));
}

#[test]
fn a_thousand_requirements_fit_or_the_first_are_in() {
    let items: Vec<Item> =
        (0..1_000).map(|it| item(Tier::Requires, &format!("task:t{it:07}"), &words(60, it), 0.0)).collect();
    let bundle = assemble(&items, 8_000);
    assert!(bundle.tokens <= 8_000 && bundle.tokens > 7_900, "{}", bundle.tokens);
    assert!(bundle.parts.len() > 100, "{}", bundle.parts.len());
    let first = &bundle.provenance[0];
    assert_eq!((&*first.source, first.form), ("task:t0000000", Form::Summary));
    let all = assemble(&items, 200_000);
    assert_eq!((all.parts.len(), &all.provenance[999].form), (1_000, &Form::Whole));
    let most = assemble(&items, 90_000);
    assert_eq!(most.parts.len(), 1_000, "each has its share");
}

#[test]
fn memories_are_packed_by_score() {
    let items = [
        item(Tier::Retrieved, "best", &words(60, 1), 0.9),
        item(Tier::Retrieved, "large", &words(600, 2), 0.8),
        item(Tier::Retrieved, "third", &words(60, 3), 0.7),
    ];
    let bundle = assemble(&items, 450);
    assert_eq!(forms(&bundle), [("best", Form::Whole), ("large", Form::Summary), ("third", Form::Whole)]);
}

#[test]
fn the_same_text_is_in_once() {
    let items = [
        item(Tier::Requires, "task:a", "the same", 0.0),
        item(Tier::Requires, "task:b", "the same", 0.0),
        item(Tier::Refers, "task:a", "the same", 0.0),
        item(Tier::Retrieved, "memory:x", "the same", 0.0),
        item(Tier::Manual, "note", " \n ", 0.0),
    ];
    let bundle = assemble(&items, 1_000);
    let out: Vec<(Form, &str)> = bundle.provenance.iter().map(|it| (it.form, &*it.reason)).collect();
    assert_eq!(
        out,
        [
            (Form::Whole, "fits"),
            // Two tasks may well say the same, and the reader must know that both did.
            (Form::Whole, "fits"),
            (Form::LeftOut, "the same text is in already"),
            (Form::LeftOut, "the same text is in already"),
            (Form::LeftOut, "empty"),
        ]
    );
}

#[test]
fn provenance_is_json() {
    let bundle = assemble(&[item(Tier::Index, "index", "x", f32::NAN)], 100);
    let json = serde_json::to_value(&bundle.provenance).unwrap();
    assert_eq!(json[0]["tier"], "index");
    assert_eq!(json[0]["form"], "whole");
    assert_eq!(json[0]["score"], 0.0);
}
