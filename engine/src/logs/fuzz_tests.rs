//! Damaged logs: rotated and compressed files that are cut short, flipped, exchanged, or hold absurd sizes. Reading
//! ends, keeps little, and shows what damage has not touched.

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tokio::sync::mpsc;

use super::files::Backlog;
use super::line::Lines;
use super::{LogFrame, LogOptions};
use crate::error::Error;
use crate::log_config::LogFormat;
use crate::log_entry::{LogEntry, MAX_ENTRY};

/// What happens to a file.
#[derive(Clone, Debug)]
enum Damage {
    None,
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// Bytes put in.
    Noise(prop::sample::Index, Vec<u8>),
    /// A length that is none.
    Absurd(prop::sample::Index, u32),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        2 => Just(Damage::None),
        1 => at().prop_map(Damage::Cut),
        2 => (at(), 0..8u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Damage::Noise(at, bytes)),
        1 => (at(), prop_oneof![Just(0), Just(u32::MAX), Just(MAX_ENTRY as u32), any::<u32>()])
            .prop_map(|(at, length)| Damage::Absurd(at, length)),
    ]
}

/// Whole messages, and where each of them stands.
fn written(format: LogFormat, file: usize, texts: &[String]) -> (Vec<u8>, Vec<(Range<usize>, String)>) {
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        let (begin, text) = (bytes.len(), format!("{file}.{n} {text}"));
        match format {
            LogFormat::Json => {
                let line = serde_json::json!({"log": format!("{text}\n"), "stream": "stdout", "time": "2024-01-02T03:04:05.000000006Z"});
                bytes.extend_from_slice(format!("{line}\n").as_bytes());
            }
            LogFormat::Entries => {
                let line = text.clone().into_bytes();
                LogEntry { source: "stderr".into(), time_nano: 7, line, ..LogEntry::default() }
                    .put(&mut bytes);
            }
        }
        places.push((begin..bytes.len(), format!("{text}\n")));
    }
    (bytes, places)
}

/// Does it, and gives the bytes of the original that are not as they were.
fn spoil(bytes: &mut Vec<u8>, damage: &Damage) -> Option<Range<usize>> {
    let length = bytes.len();
    match damage {
        Damage::None => None,
        _ if length == 0 => None,
        Damage::Cut(at) => {
            let at = at.index(length);
            bytes.truncate(at);
            Some(at..length)
        }
        Damage::Flip(at, bit) => {
            let at = at.index(length);
            bytes[at] ^= 1 << bit;
            Some(at..at + 1)
        }
        Damage::Noise(at, noise) => {
            let at = at.index(length);
            bytes.splice(at..at, noise.iter().copied());
            Some(at..at + 1)
        }
        Damage::Absurd(at, size) => {
            let at = at.index(length);
            let end = (at + 4).min(length);
            bytes[at..end].copy_from_slice(&size.to_be_bytes()[..end - at]);
            Some(at..end)
        }
    }
}

fn numbered(log: &Path, n: usize) -> PathBuf {
    match n {
        0 => log.to_path_buf(),
        n => PathBuf::from(format!("{}.{n}", log.display())),
    }
}

/// All that reading gives, in its order.
fn read(log: &Path, format: LogFormat, tail: Option<u64>) -> Vec<Result<LogFrame, Error>> {
    let (send, mut receive) = mpsc::channel(4);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        while let Some(frame) = receive.blocking_recv() {
            all.push(frame);
        }
        all
    });
    let o = LogOptions { stdout: true, stderr: true, tail, ..LogOptions::default() };
    Backlog::open(log, format, tail).and_then(|b| b.send(&o, &send)).expect("damage is no failure");
    drop(send);
    reader.join().expect("the reader ends")
}

/// Files take their time; `PROPTEST_CASES=N` looks longer.
fn few() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48);
    ProptestConfig { cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(few())]

    #[test]
    fn what_damage_has_not_touched_is_shown(
        entries in any::<bool>(),
        files in prop::collection::vec(
            (prop::collection::vec("\\PC{0,40}", 0..12), damage(), any::<bool>()),
            1..5,
        ),
        exchange in any::<bool>(),
        tail in 0..20u64,
    ) {
        let format = if entries { LogFormat::Entries } else { LogFormat::Json };
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let mut expected = Vec::new();
        for (n, (texts, damage, compress)) in files.iter().enumerate() {
            // The youngest is never compressed.
            let compress = *compress && n > 0;
            let (mut bytes, places) = written(format, n, texts);
            let at = if exchange && files.len() > 2 && n > 0 { files.len() - n } else { n };
            if compress {
                let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gz.write_all(&bytes).expect("to memory");
                let mut packed = gz.finish().expect("to memory");
                let spoilt = spoil(&mut packed, damage);
                std::fs::write(format!("{}.gz", numbered(&log, at).display()), packed).expect("writes");
                if spoilt.is_none() {
                    expected.extend(places.into_iter().map(|(_, text)| text));
                }
                continue;
            }
            let spoilt = spoil(&mut bytes, damage);
            std::fs::write(numbered(&log, at), bytes).expect("writes");
            let mut touched = false;
            for (place, text) in places {
                let hit = spoilt.as_ref().is_some_and(|s| place.start < s.end && s.start < place.end);
                // The end of a line is also where the next one begins.
                let blurred = std::mem::replace(&mut touched, hit);
                if !hit && !blurred {
                    expected.push(text);
                }
            }
        }
        let all = read(&log, format, None);
        let shown: Vec<_> = all.iter().flatten().map(|f| String::from_utf8_lossy(&f.data).into_owned()).collect();
        for text in &expected {
            prop_assert!(shown.contains(text), "{text:?} is not in {shown:?}");
        }
        let damaged = all.iter().flat_map(|r| r.as_ref().err());
        for e in damaged {
            prop_assert!(matches!(e, Error::DamagedLog { .. }), "{e}");
        }
        let _ = read(&log, format, Some(tail));
    }

    #[test]
    fn nothing_is_kept_beyond_the_longest_message(
        entries in any::<bool>(),
        blocks in prop::collection::vec((any::<u8>(), 1..400_000usize), 1..8),
    ) {
        let mut lines = Lines::new(if entries { LogFormat::Entries } else { LogFormat::Json });
        for (byte, count) in blocks {
            for block in vec![byte; count].chunks(64 << 10) {
                lines.add(block, |_| true);
                prop_assert!(lines.kept() <= MAX_ENTRY + (64 << 10) + 8);
            }
        }
        lines.finish(|_| true);
        prop_assert_eq!(lines.kept(), 0);
    }
}

#[test]
fn what_is_no_file_does_not_hold_the_reader_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("log");
    let (bytes, places) = written(LogFormat::Json, 0, &["x".into()]);
    std::fs::write(&log, bytes).expect("writes");
    nix::unistd::mkfifo(&numbered(&log, 1), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    std::fs::create_dir(numbered(&log, 2)).expect("a directory");
    let all = read(&log, LogFormat::Json, None);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].as_ref().expect("whole").data, places[0].1.as_bytes());
}

/// 4 MB of nothing that compress to almost nothing, as one line and as entries.
#[test]
fn absurd_sizes_are_passed_over() {
    for format in [LogFormat::Json, LogFormat::Entries] {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let (bytes, places) = written(format, 0, &["x".into()]);
        std::fs::write(&log, &bytes).expect("writes");
        let packed = std::fs::File::create(format!("{}.1.gz", log.display())).expect("made");
        let mut gz = flate2::write::GzEncoder::new(packed, flate2::Compression::fast());
        for _ in 0..4 {
            gz.write_all(&vec![0xff; 1 << 20]).expect("writes");
        }
        if format == LogFormat::Json {
            gz.write_all(b"\n").expect("writes");
        }
        gz.write_all(&bytes).expect("writes");
        gz.finish().expect("writes");
        let all = read(&log, format, None);
        assert_eq!(all.len(), 3, "one complaint, and both messages");
        for frame in all.into_iter().skip(1) {
            assert_eq!(frame.expect("whole").data, places[0].1.as_bytes());
        }
    }
}
