//! What the real embedding model makes of texts.

mod model;

use std::sync::Arc;

use crewline_memory::Purpose;

use crate::model::{embedder, texts};

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[tokio::test]
async fn vectors_mean_something() {
    let Some(embedder) = embedder() else { return };
    let all = texts(&["a cat sleeps", "a kitten naps", "the tax law of 1986"]);
    let vectors = embedder.embed(all.clone(), Purpose::Document).await.unwrap();
    for vector in &vectors {
        assert_eq!(vector.len(), embedder.dimensions());
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-5);
    }
    let (near, far) = (cosine(&vectors[0], &vectors[1]), cosine(&vectors[0], &vectors[2]));
    assert!(near > far + 0.3, "{near} {far}");

    // The same text has the same vector, whatever stands beside it.
    let alone = embedder.embed(vec![Arc::clone(&all[1])], Purpose::Query).await.unwrap();
    assert_eq!(alone[0], vectors[1]);
}

#[tokio::test]
async fn odd_texts_have_vectors() {
    let Some(embedder) = embedder() else { return };
    let long = "a long story about nothing ".repeat(20_000);
    let vectors = embedder.embed(texts(&["", "🚀", "漢字", &long, "\0"]), Purpose::Document).await.unwrap();
    assert_eq!(vectors.len(), 5);
}
