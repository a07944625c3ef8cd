//! Keys of the HTTP API: one a name, revoked once, and a door that time alone does not open.

use crewline_store::{ApiKey, Store};
use crewline_types::{KeyScope, KeyScopes, Timestamp};

use crate::common::{Place, at};

on_both! {
    a_key_is_kept_as_it_was_made
    a_name_is_free_again_when_its_key_is_revoked
    whoever_makes_keys_at_once_gets_one_a_name
}

fn key(id: &str, name: &str) -> ApiKey {
    ApiKey {
        id: id.parse().unwrap(),
        name: name.into(),
        hash: [7; 32],
        scopes: KeyScopes::new([KeyScope::Run]),
        created_at: at(1),
        created_by: "ann".into(),
        expires_at: None,
        used_at: None,
        revoked_at: None,
    }
}

async fn a_key_is_kept_as_it_was_made(place: &Place) {
    let store = place.open().await;
    assert!(!store.has_api_keys().await.unwrap());
    let made = ApiKey { expires_at: Some(Timestamp(5)), ..key("aaaaaaaa", "ci") };
    assert!(store.add_api_key(&made).await.unwrap());
    assert_eq!(store.api_key(made.id).await.unwrap(), Some(made.clone()));
    assert_eq!(store.api_key("bbbbbbbb".parse().unwrap()).await.unwrap(), None);
    assert!(store.has_api_keys().await.unwrap(), "a key whose time has passed keeps the door shut");
    for (seconds, seen) in [(9, 9), (8, 9), (10, 10)] {
        store.use_api_key(made.id, at(seconds)).await.unwrap();
        assert_eq!(store.api_keys().await.unwrap(), [ApiKey { used_at: Some(at(seen)), ..made.clone() }]);
    }
}

async fn a_name_is_free_again_when_its_key_is_revoked(place: &Place) {
    let store = place.open().await;
    let (first, second) = (key("aaaaaaaa", "ci"), key("bbbbbbbb", "ci"));
    assert!(store.add_api_key(&first).await.unwrap());
    assert!(!store.add_api_key(&second).await.unwrap(), "the name is taken");
    assert!(!store.add_api_key(&key("aaaaaaaa", "other")).await.unwrap(), "the id is taken");
    assert!(store.revoke_api_key(first.id, at(3)).await.unwrap());
    assert!(!store.revoke_api_key(first.id, at(4)).await.unwrap(), "it is revoked once");
    assert!(!store.revoke_api_key(second.id, at(4)).await.unwrap(), "it is no key");
    assert!(!store.has_api_keys().await.unwrap());
    assert!(store.add_api_key(&second).await.unwrap());
    assert_eq!(store.api_keys().await.unwrap(), [ApiKey { revoked_at: Some(at(3)), ..first }, second]);
}

async fn whoever_makes_keys_at_once_gets_one_a_name(place: &Place) {
    let (one, other): (Store, Store) = (place.open().await, place.open().await);
    let (first, second) = (key("aaaaaaaa", "ci"), key("bbbbbbbb", "ci"));
    let (a, b) = tokio::join!(one.add_api_key(&first), other.add_api_key(&second));
    assert!(a.unwrap() != b.unwrap(), "one of them is told that the name is taken");
    assert_eq!(one.api_keys().await.unwrap().len(), 1);
}
