//! Bytes from outside for the front end: mutations of a Dockerfile with a bit of everything, and patterns of
//! `.dockerignore` beside a second reading of them. `PROPTEST_CASES=N` looks longer.

use proptest::prelude::*;

use super::{Glob, Ignore, parse, parse_one};

/// A bit of everything.
const GOOD: &str = r#"# syntax=docker/dockerfile:1
# escape=\
ARG V=1 W
FROM --platform=linux/amd64 busybox:${V:-1} AS base
ENV A=b C="d e" F=g\ h
LABEL "x y"='z' \
  # between
  more=1
SHELL ["/bin/sh", "-ec"]
RUN --mount=type=cache,target=/c,sharing=locked --mount=type=secret,id=s,required --network=none <<EOF
echo "$A" # é
EOF
RUN ["a", "b\n"]
COPY --from=base --chown=1:2 --chmod=755 --parents --exclude=*.md a/./b ${C%x} c/
COPY <<one <<-'two' /d/
first $A
one
	second
	two
ADD --checksum=sha256:0 ["a b", "/c"]
ONBUILD COPY . /x
EXPOSE 80 53/udp 1-2
HEALTHCHECK --interval=1m30s --retries=2 CMD true
VOLUME /a /b
USER a:b
WORKDIR /a b
STOPSIGNAL 9
ENTRYPOINT exec "$0"
CMD ["x"]
"#;
const SIGNS: &[u8] = b"[]{}:,=*!|<>'\"%$`\\#\n\r\t -/";

fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0_u8..6, any::<u8>(), any::<prop::sample::Index>());
    prop::collection::vec(change, 1..8).prop_map(|changes| {
        let mut bytes = GOOD.as_bytes().to_vec();
        for (at, kind, byte, other) in changes {
            let (at, other) = (at.index(bytes.len().max(1)), other.index(bytes.len().max(1)));
            let (from, to) = (at.min(other), at.max(other).min(bytes.len()));
            match kind {
                _ if bytes.is_empty() => {}
                0 => bytes[at] = byte,
                1 => bytes.insert(at, SIGNS[byte as usize % SIGNS.len()]),
                2 => drop(bytes.remove(at)),
                3 => drop(bytes.drain(from..to.min(from + 64))),
                4 => {
                    let piece = bytes[from..to.min(from + 64)].to_vec();
                    bytes.splice(other..other, piece);
                }
                _ => bytes.truncate(at),
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// moby's patternmatcher, read once more: by trying all there is to try.
fn fits(pattern: &[u8], path: &[u8], first: bool) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => {
            let (slash, rest) = rest.strip_prefix(b"/").map_or((false, rest), |r| (true, r));
            if rest.is_empty() {
                return true;
            }
            if first && !slash && !rest.iter().any(|c| b"*?".contains(c)) {
                return path.ends_with(rest);
            }
            let after = path.iter().enumerate().filter(|(_, c)| **c == b'/').map(|(i, _)| i + 1);
            std::iter::once(0).chain(after).any(|from| fits(rest, &path[from..], false))
        }
        [b'*', rest @ ..] => {
            let name = path.iter().position(|c| *c == b'/').unwrap_or(path.len());
            (0..=name).any(|from| fits(rest, &path[from..], false))
        }
        [b'?', rest @ ..] => path.first().is_some_and(|c| *c != b'/') && fits(rest, &path[1..], false),
        [c, rest @ ..] => path.first() == Some(c) && fits(rest, &path[1..], false),
    }
}

#[test]
fn the_good_dockerfile_is_good() {
    assert_eq!(parse(GOOD).expect("no complaint").instructions.len(), 19);
}

proptest! {
    #[test]
    fn a_mutated_dockerfile_is_one_or_an_error_with_its_place(text in mutated()) {
        let lines = text.lines().count().max(1);
        match parse(&text) {
            Ok(read) => {
                for i in &read.instructions {
                    prop_assert!(i.line >= 1 && i.line <= i.last_line && i.last_line <= lines, "{i:?}");
                    // What an image keeps of it for later is read again.
                    let _ = parse_one(&i.text);
                }
            }
            Err(e) => prop_assert!(e.line >= 1 && e.line <= lines + 1 && e.column >= 1, "{e}"),
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_to_docker(
        pattern in "(a|b|/|\\*|\\*\\*|\\*\\*/|\\?){1,8}",
        path in "[ab]{1,3}(/[ab]{1,3}){0,3}",
    ) {
        let glob = Glob::path(&pattern).expect("no class, no escape");
        prop_assert_eq!(glob.matches(&path), fits(pattern.as_bytes(), path.as_bytes(), true), "{} {}", pattern, path);
    }

    #[test]
    fn what_is_ignored_is_told_by_the_pattern_that_says_so(
        lines in prop::collection::vec("!?\\.?/?(a|b|/|\\*|\\*\\*|\\?|\\.\\.?|\\[|\\]|-|\\\\| |#){0,8}", 0..6),
        path in "[ab]{1,3}(/[ab]{1,3}){0,3}",
    ) {
        let text = lines.join("\n");
        match Ignore::parse(&text) {
            Ok(ignore) => {
                if let Some(by) = ignore.excluded_by(&path) {
                    prop_assert!(!by.starts_with('!') && lines.iter().any(|l| l.trim() == by), "{by:?}");
                    // What lies below is left out by the same, or kept by another.
                    let below = format!("{path}/c");
                    prop_assert!(ignore.excluded_by(&below).is_some() || ignore.may_keep_below(&path));
                }
            }
            Err(e) => prop_assert!(e.starts_with("line "), "{e}"),
        }
    }

    #[test]
    fn no_pattern_takes_long(pattern in "(\\*|\\*\\*|a|\\*\\*/){50,200}", path in "(a|/){100,200}") {
        let _ = Ignore::parse(&pattern).map(|i| i.excluded_by(&path).is_some());
    }
}
