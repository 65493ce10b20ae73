//! Bytes from outside for every parser of the engine but those of images: no panic, no hang, and round trips where
//! there is a printer. `PROPTEST_CASES=N` looks longer.

use proptest::prelude::*;
use serde_json::Value;

use crate::config::Seccomp;
use crate::runtime::{self, mountinfo};
use crate::shim::protocol;
use crate::shim::spec::{ExecSpec, ShimSpec};

/// Any JSON, with words that mean something here and there.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let word = prop_oneof![
        prop::sample::select(vec![
            "SCMP_ACT_ERRNO",
            "SCMP_ACT_ALLOW",
            "SCMP_CMP_MASKED_EQ",
            "SCMP_ARCH_X86_64",
            "open",
            "names",
            "args",
            "index",
            "value",
            "op",
            "action",
            "caps",
            "diff_ids",
            "type",
            "Cmd",
            "Env",
            "ExposedPorts",
            "Labels",
            "9223372036854775808",
            "-1",
            "80/tcp",
            "2024-01-02T03:04:05Z",
            "/",
            "a=b",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,8}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(word.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A profile whose parts are right more often than not.
fn profile() -> impl Strategy<Value = Value> {
    let action =
        prop::sample::select(vec!["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_LOG", "?"]);
    let op = prop::sample::select(vec![
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ]);
    let name = prop::sample::select(vec![
        "open", "read", "clone", "socket", "ptrace", "nonesuch", "execve", "mount",
    ]);
    let arg = (0..7u8, any::<u64>(), any::<u64>(), op)
        .prop_map(|(index, value, two, op)| serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": op}));
    let call = (prop::collection::vec(name, 0..5), action.clone(), prop::collection::vec(arg, 0..8), any::<i32>()).prop_map(
        |(names, action, args, errno)| serde_json::json!({"names": names, "action": action, "args": args, "errnoRet": errno}),
    );
    (action, prop::collection::vec(call, 0..40), json(), any::<bool>()).prop_map(
        |(action, calls, odd, spoil)| {
            let mut whole = serde_json::json!({"defaultAction": action, "syscalls": calls});
            if spoil {
                whole["architectures"] = odd;
            }
            whole
        },
    )
}

fn spec(profile: String) -> ShimSpec {
    ShimSpec { seccomp: Seccomp::Profile(profile), ..ShimSpec::default() }
}

proptest! {
    #[test]
    fn seccomp_profiles_compile_or_are_refused(profile in profile(), other in json(), text in "\\PC{0,100}") {
        for text in [profile.to_string(), other.to_string(), text] {
            let _ = runtime::validate(&spec(text));
        }
    }

    #[test]
    fn frames_come_through_whole_and_cut(
        kind in any::<u8>(),
        payload in prop::collection::vec(any::<u8>(), 0..3000),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = Vec::new();
        protocol::put(&mut bytes, kind, &[&payload[..payload.len() / 2], &payload[payload.len() / 2..]]);
        for cut in [0, 3, 4, bytes.len() - 1] {
            prop_assert!(cut >= bytes.len() || matches!(protocol::first(&bytes[..cut]), Ok(None)));
        }
        let length = bytes.len();
        bytes.extend_from_slice(&noise);
        prop_assert_eq!(protocol::first(&bytes).ok().flatten(), Some((length, kind, &payload[..])));
        if let Ok(Some((length, _, _))) = protocol::first(&noise) {
            prop_assert!(length <= noise.len());
        }
    }

    #[test]
    fn what_a_shim_is_told_is_understood_or_refused(value in json(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for bytes in [value.to_string().as_bytes(), &bytes] {
            let _ = serde_json::from_slice::<ExecSpec>(bytes);
            let _ = serde_json::from_slice::<ShimSpec>(bytes);
        }
    }

    #[test]
    fn rules_of_devices_are_read_or_refused(text in prop_oneof!["\\PC{0,30}", "[abc] [0-9*]{0,6}:[0-9*]{0,12} [rwm]{0,4}"]) {
        if let Ok(rule) = runtime::parse_rule(&text) {
            prop_assert_eq!(runtime::parse_rule(&rule.to_string()).ok(), Some(rule));
        }
    }

    #[test]
    fn mounts_are_read_whatever_their_names_are(line in prop::collection::vec(any::<u8>(), 0..120), words in "[0-9 :/\\\\a-z-]{0,80}") {
        let _ = mountinfo::parse(&line);
        let _ = mountinfo::parse(words.as_bytes());
    }

    #[test]
    fn a_log_gives_back_what_was_written_and_survives_a_torn_tail(
        chunks in prop::collection::vec(prop::collection::vec(prop_oneof![4 => any::<u8>(), 1 => Just(b'\n')], 0..300), 0..8),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        let spec = ShimSpec { log_path: path.clone(), ..ShimSpec::default() };
        let mut log = crate::shim::log::Log::open(&spec).expect("opens");
        let mut lines = crate::shim::log::Lines::new("stdout");
        for chunk in &chunks {
            log.write(&mut lines, chunk).expect("writes");
        }
        log.finish(&mut lines).expect("writes");
        let written = std::fs::read(&path).expect("reads");
        let mut read = Vec::new();
        for line in written.split_inclusive(|b| *b == b'\n') {
            let frame = crate::logs::parse(line).expect("each line is whole");
            read.extend_from_slice(&frame.data);
        }
        // What is no UTF-8 is kept as the replacement character, as Docker does.
        let all: Vec<u8> = chunks.concat();
        if let Ok(text) = std::str::from_utf8(&all) {
            prop_assert_eq!(std::str::from_utf8(&read).ok(), Some(text));
        }
        let torn = &written[..cut.index(written.len() + 1)];
        for line in torn.split_inclusive(|b| *b == b'\n').chain([&noise[..]]) {
            let _ = crate::logs::parse(line);
            let _ = crate::log_entry::LogEntry::read(line);
        }
    }
}
