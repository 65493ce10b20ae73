//! What a registry, or whoever answers in its place, may send. `PROPTEST_CASES=N` looks longer.

use proptest::prelude::*;
use serde_json::Value;

use crate::manifest::{Document, Fetched, Platform};
use crate::{Credentials, challenge, digest_of};

fn json() -> impl Strategy<Value = Value> {
    let words = vec![
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "platform",
        "annotations",
        "urls",
        "architecture",
        "os",
        "amd64",
        "linux",
        "username",
        "password",
        "auth",
        "YTpi",
        "identitytoken",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ];
    let word = prop_oneof![4 => prop::sample::select(words).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            3 => prop::collection::btree_map(word.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn read(bytes: &[u8], header: &str) {
    if let Ok(found) = Fetched::read(bytes.to_vec(), header, digest_of(bytes))
        && let Document::Index { manifests } = &found.document
    {
        let _ = Fetched::choose(manifests, &Platform::host());
    }
}

proptest! {
    #[test]
    fn manifests_are_read_or_refused(
        value in json(),
        part in json(),
        key in prop::sample::select(vec!["config", "layers", "manifests", "mediaType", "schemaVersion"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        header in "\\PC{0,40}",
    ) {
        let digest = digest_of(b"");
        let mut right = serde_json::json!({
            "schemaVersion": 2, "config": {"mediaType": "x", "digest": digest, "size": 2},
            "layers": [{"mediaType": "x", "digest": digest, "size": 2}],
        });
        right[key] = part;
        read(right.to_string().as_bytes(), &header);
        read(value.to_string().as_bytes(), "");
        read(&bytes, &header);
    }

    #[test]
    fn challenges_are_read_as_far_as_they_go(
        text in prop_oneof!["\\PC{0,80}", "[A-Za-z]{1,8} ([a-z]{1,8}=\"?[^\"]{0,10}\"?,? ?){0,4}", "[a-z=\",\\\\ ]{0,60}"],
    ) {
        for c in challenge::parse(&text) {
            let _ = c.get("realm");
        }
    }

    #[test]
    fn credentials_come_through_the_header(user in "\\PC{0,20}", password in "\\PC{0,20}", text in "\\PC{0,60}", odd in json()) {
        let json = serde_json::json!({"username": user, "password": password}).to_string();
        let read = Credentials::from_json(json.as_bytes()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let again = Credentials::from_header(&read.to_header()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!((&again.username, &again.password), (&user, &password));
        let _ = Credentials::from_header(&text);
        let _ = Credentials::from_json(odd.to_string().as_bytes());
    }

    #[test]
    fn platforms_are_read_or_refused(text in prop_oneof!["\\PC{0,30}", "[a-z0-9/]{0,30}"]) {
        if let Ok(read) = Platform::parse(&text) {
            let _ = Platform::host().served_by(&read);
        }
    }
}
