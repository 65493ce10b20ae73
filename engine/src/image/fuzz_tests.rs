//! Bytes from outside that an image is made of: whatever they are, there is an answer, and nothing of them gets
//! outside the root. `PROPTEST_CASES=N` looks longer.

use std::io::Read;
use std::path::Path;

use proptest::prelude::*;

use super::compression::decoder;
use super::config::ConfigBlob;
use super::extract::{CopyRules, Within, copy_in, extract};
use super::layer::Limits;
use super::reference::Reference;
use super::tar::TarReader;
use crate::runtime::resolve::Root;

/// Names that lead astray, collide, and hide.
const NAMES: [&str; 14] = [
    "a",
    "a/b",
    "a/b/c",
    "./a/",
    "../out",
    "/etc/x",
    "a/../../out",
    "a/../b",
    "",
    ".",
    "..",
    ".wh.a",
    "a/.wh..wh..opq",
    ".wh...",
];
const TARGETS: [&str; 8] = ["a", "..", "/", "../../..", "a/b", "OUTSIDE", "OUTSIDE/token", "../outside"];

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    link: String,
    kind: u8,
    mode: u32,
    data: Vec<u8>,
    /// What the header says of the size, where it is not the truth.
    size: Option<u64>,
}

fn entry() -> impl Strategy<Value = Entry> {
    let name = prop_oneof![
        8 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
        1 => "[a-c/.]{0,99}",
        1 => "[a-z]{1,9}(/[a-z]{1,9}){12}".prop_map(|s| s[..s.len().min(99)].to_owned()),
    ];
    let kind = prop::sample::select(b"0123456\0LKxgS7Z".to_vec());
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..700),
        Just(b"30 mtime=99999999999999999.5\n".to_vec()),
        Just(b"19 path=../escaped\n18 linkpath=/etc\n".to_vec()),
        Just(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n33 GNU.sparse.realsize=99999999\n".to_vec()),
    ];
    let size = prop::option::weighted(0.1, prop_oneof![any::<u64>(), Just(u64::MAX), 0..2000u64]);
    (name, prop::sample::select(TARGETS.to_vec()), kind, any::<u32>(), data, size).prop_map(
        |(name, link, kind, mode, data, size)| Entry { name, link: link.to_owned(), kind, mode, data, size },
    )
}

fn archive(entries: &[Entry], outside: &Path) -> Vec<u8> {
    let mut out = Vec::new();
    for e in entries {
        let mut header = tar::Header::new_gnu();
        let fields = header.as_old_mut();
        let link = e.link.replace("OUTSIDE", &outside.display().to_string());
        let put = |to: &mut [u8], from: &str| {
            let n = from.len().min(to.len());
            to[..n].copy_from_slice(&from.as_bytes()[..n]);
        };
        put(&mut fields.name, &e.name);
        put(&mut fields.linkname, &link);
        fields.linkflag = [e.kind];
        header.set_mode(e.mode & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        let holds = !matches!(e.kind, b'1'..=b'6');
        header.set_size(e.size.unwrap_or(if holds { e.data.len() as u64 } else { 0 }));
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        if holds {
            out.extend_from_slice(&e.data);
            out.resize(out.len().next_multiple_of(512), 0);
        }
    }
    out.extend_from_slice(&[0; 1024]);
    out
}

/// What an archive may not touch: a directory beside the root, and all above.
fn in_a_room(run: impl FnOnce(&Path, &Path)) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    for made in [&root, &outside] {
        std::fs::create_dir(made).expect("makes");
    }
    std::fs::write(outside.join("token"), "host").expect("writes");
    run(&root, &outside);
    let names = |at: &Path| {
        let entries = std::fs::read_dir(at).expect("lists").flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    };
    prop_assert_eq!(names(dir.path()), ["outside", "root"]);
    prop_assert_eq!(names(&outside), ["token"]);
    let meta = std::fs::metadata(outside.join("token")).expect("there");
    prop_assert_eq!(std::fs::read_to_string(outside.join("token")).expect("reads"), "host");
    use std::os::unix::fs::MetadataExt;
    prop_assert_eq!((meta.nlink(), meta.uid(), meta.mode() & 0o7777), (1, 0, 0o644));
    Ok(())
}

proptest! {
    #[test]
    fn layers_stay_in_their_root(
        entries in prop::collection::vec(entry(), 0..12),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        copied in any::<bool>(),
    ) {
        in_a_room(|root, outside| {
            let mut bytes = archive(&entries, outside);
            for (at, with) in &flips {
                let at = at.index(bytes.len());
                bytes[at] = *with;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let limits = Limits { bytes: 4 << 20, entries: 1000, ..Limits::default() };
            if copied {
                let to = std::fs::File::open(root).expect("opens");
                let within = Some(Within { root: Root::at(root).expect("opens"), at: "/".into() });
                let rules = CopyRules { keep_kinds: true, owner: Some((0, 0)), ids: None, within };
                // Within bounds of its own size, as it is of plain bytes.
                let _ = copy_in(bytes.as_slice(), to.into(), rules);
            } else if let Ok(written) = extract(&mut TarReader::new(bytes.as_slice(), true), root, &limits) {
                assert!(written <= limits.bytes);
            }
        })?;
    }

    #[test]
    fn any_bytes_are_an_archive_or_are_not(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let mut reader = TarReader::new(bytes.as_slice(), false);
        while let Ok(Some(_)) = reader.next() {}
        if let Ok((_, mut plain)) = decoder(bytes.as_slice()) {
            let _ = plain.by_ref().take(1 << 20).read_to_end(&mut Vec::new());
        }
        let _ = ConfigBlob::parse(&bytes, "x");
    }

    #[test]
    fn damaged_compression_is_an_error_or_reads(
        plain in prop::collection::vec(any::<u8>(), 0..2000),
        zstd in any::<bool>(),
        at in any::<prop::sample::Index>(),
        with in any::<u8>(),
    ) {
        let mut packed = match zstd {
            true => ruzstd::encoding::compress_to_vec(&plain[..], ruzstd::encoding::CompressionLevel::Fastest),
            false => {
                let mut z = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                std::io::Write::write_all(&mut z, &plain).expect("to memory");
                z.finish().expect("to memory")
            }
        };
        let read = |packed: &[u8]| -> std::io::Result<Vec<u8>> {
            let mut out = Vec::new();
            decoder(packed)?.1.take(8 << 20).read_to_end(&mut out)?;
            Ok(out)
        };
        prop_assert_eq!(read(&packed).ok(), Some(plain));
        let at = at.index(packed.len());
        packed[at] = with;
        let _ = read(&packed);
    }

    #[test]
    fn references_are_what_they_are_shown_as(
        text in prop_oneof![
            "\\PC{0,80}",
            "[a-zA-Z0-9.:/@_-]{0,60}",
            "([a-z0-9.-]{1,12}(:[0-9]{1,5})?/)?[a-z0-9]+([._-][a-z0-9]+){0,2}(:[a-zA-Z0-9._-]{1,12})?",
        ],
    ) {
        if let Ok(read) = Reference::parse(&text) {
            let shown = read.to_string();
            prop_assert_eq!(Reference::parse(&shown).ok(), Some(read), "{} shown as {}", text, shown);
        }
    }

    #[test]
    fn configurations_are_read_or_refused(
        key in prop::sample::select(vec!["config", "rootfs", "history", "created", "os", "architecture"]),
        value in crate::fuzz::json(),
    ) {
        let mut whole = serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": []}});
        whole[key] = value;
        if let Ok(blob) = ConfigBlob::parse(whole.to_string().as_bytes(), "x") {
            blob.created_at_ns();
        }
    }
}
