//! What clients, or whoever comes in their place, may send. `PROPTEST_CASES=N` looks longer.

use proptest::prelude::*;
use serde_json::Value;
use skep_registry::{digest_of, is_digest, media};

use crate::http::{Wanted, piece};
use crate::manifest::{Manifest, PartKind};
use crate::name::{is_name, is_tag, is_upload};
use crate::route::{Reference, Route, parameter};

fn path() -> impl Strategy<Value = String> {
    let words = vec![
        "v2",
        "v1",
        "",
        ".",
        "..",
        "%2e%2e",
        "%2F",
        "%",
        "%zz",
        "%ff",
        "a",
        "A",
        "_a",
        "blobs",
        "uploads",
        "manifests",
        "tags",
        "list",
        "referrers",
        "_catalog",
        "latest",
        "sha256:",
        "sha256:../../../etc/passwd",
        "\0",
        "%00",
        "e3b0c44298fc1c149afbf4c8996fb924",
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    ];
    let word = prop_oneof![6 => prop::sample::select(words).prop_map(str::to_owned), 1 => "\\PC{0,12}"];
    prop_oneof![
        prop::collection::vec(word.clone(), 0..8).prop_map(|w| format!("/{}", w.join("/"))),
        prop::collection::vec(word, 1..6).prop_map(|w| format!("/v2/{}", w.join("/"))),
        "\\PC{0,60}",
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let words = vec![
        "schemaVersion",
        "mediaType",
        "config",
        "layers",
        "manifests",
        "digest",
        "size",
        "subject",
        "artifactType",
        "annotations",
        "urls",
        media::OCI_MANIFEST,
        media::OCI_INDEX,
        media::DOCKER_MANIFEST,
        media::DOCKER_LIST,
        "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "sha256:../..",
    ];
    let word = prop_oneof![4 => prop::sample::select(words).prop_map(str::to_owned), 1 => "\\PC{0,8}"];
    let leaf = prop_oneof![
        Just(Value::Null),
        Just(Value::from(2)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
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

/// A component of a path that leads nowhere but into its folder.
fn is_safe(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']) && text.len() <= 255
}

proptest! {
    #[test]
    fn no_path_leads_out_of_the_store(path in path()) {
        let Some(route) = Route::read(&path) else { return Ok(()) };
        if let Some(name) = route.name().filter(|n| is_name(n)) {
            prop_assert!(name.split('/').all(|c| is_safe(c) && !c.starts_with('_')), "{name}");
        }
        match &route {
            Route::Manifest { reference: Reference::Tag(tag), .. } => prop_assert!(is_tag(tag) && is_safe(tag)),
            Route::Upload { id, .. } => prop_assert!(!is_upload(id) || is_safe(id)),
            Route::Manifest { reference: Reference::Digest(digest), .. }
            | Route::Blob { digest, .. }
            | Route::Referrers { digest, .. } => {
                prop_assert!(!is_digest(digest) || is_safe(crate::name::hex_of(digest)));
            }
            _ => {}
        }
    }

    #[test]
    fn ranges_stay_within(
        header in prop_oneof!["bytes=[0-9]{0,22}-[0-9]{0,22}", "bytes=[-0-9, ]{0,12}", "\\PC{0,20}"],
        size in prop_oneof![0u64..20, any::<u64>()],
    ) {
        match Wanted::read(Some(&header), size) {
            Wanted::Part(first, last) => prop_assert!(first <= last && last < size, "{header} {size}"),
            Wanted::All | Wanted::Beyond => {}
        }
        if let Some((start, end)) = piece(header.trim_start_matches("bytes=")) {
            prop_assert!(start <= end);
        }
    }

    #[test]
    fn queries_are_read_or_passed_over(query in prop_oneof!["([a-z]{0,6}=?[%a-zA-Z0-9/+:]{0,8}&?){0,5}", "\\PC{0,40}"]) {
        for name in ["n", "last", "digest", "mount", "from", "artifactType"] {
            let _ = parameter(Some(&query), name);
        }
    }

    #[test]
    fn manifests_are_read_or_refused(
        value in json(),
        part in json(),
        key in prop::sample::select(vec!["config", "layers", "manifests", "mediaType", "schemaVersion", "subject", "annotations"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        kind in prop_oneof!["\\PC{0,40}", Just(media::OCI_INDEX.to_owned()), Just(media::DOCKER_MANIFEST.to_owned())],
    ) {
        let digest = digest_of(b"");
        let mut right = serde_json::json!({
            "schemaVersion": 2, "config": {"mediaType": "x", "digest": digest, "size": 2},
            "layers": [{"mediaType": "x", "digest": digest, "size": 2}],
        });
        right[key] = part;
        for text in [right.to_string().into_bytes(), value.to_string().into_bytes(), bytes] {
            let Ok(read) = Manifest::read(&text, &kind) else { continue };
            prop_assert!(read.parts.iter().all(|p| is_digest(&p.digest)));
            prop_assert!(read.subject.iter().all(|d| is_digest(d)));
            let indexed = read.parts.iter().any(|p| p.kind == PartKind::Manifest);
            prop_assert!(!indexed || skep_registry::INDEX_TYPES.contains(&read.media_type.as_str()));
        }
    }
}
