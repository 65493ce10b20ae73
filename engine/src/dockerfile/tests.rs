//! Tables of the front end.

use super::*;

fn kinds(text: &str) -> Vec<Kind> {
    parse(text).expect("parses").instructions.into_iter().map(|i| i.kind).collect()
}

fn refused(text: &str) -> String {
    match parse(text) {
        Err(e) => e.to_string(),
        Ok(d) => panic!("taken: {text:?}: {d:?}"),
    }
}

#[test]
fn lines_are_joined_without_comments_and_know_their_places() {
    let d = parse("# a comment\n\nFROM a\n  run echo \\\n# between\n\n  hi \\  \n there\nCMD [\"x\"]\n")
        .expect("parses");
    let i = &d.instructions[1];
    assert_eq!((i.text.as_str(), i.line, i.last_line), ("run echo   hi  there", 4, 8));
    assert_eq!(d.instructions[2].line, 9);
    let back = parse("# escape=`\nFROM a\nRUN dir c:\\ `\n more").expect("parses");
    assert_eq!(back.instructions[1].text, "RUN dir c:\\  more");
    assert_eq!(parse("FROM a\r\nRUN b\\\r\n c\r\n").expect("parses").instructions[1].text, "RUN b c");
    assert_eq!(parse("FROM a\nRUN b\\\\\nRUN c").expect("parses").instructions.len(), 3);
    let noted = parse("#syntax=docker/dockerfile:1\nFROM a").expect("parses");
    assert!(noted.notes[0].contains("docker/dockerfile:1"), "{:?}", noted.notes);
    let noted = parse("FROM a\nCMD ['a', 'b']\nRUN [ -e /a ]").expect("parses").notes;
    assert!(matches!(&noted[..], [note] if note.starts_with("line 2: ")), "{noted:?}");
    // After the first other comment nothing is a directive any more.
    assert_eq!(parse("# hi\n# escape=`\nFROM a").expect("parses").escape, '\\');
}

#[test]
fn heredocs_are_bodies_of_run_copy_and_add() {
    let text = "FROM a\nRUN <<EOF\necho $x\n# no comment\nEOF\nCOPY <<a.txt <<-'b' /d/\nA\na.txt\n\tB\n\tb\nRUN cat <<\"E F\"\n";
    let all = kinds(text);
    let Kind::Run(run) = &all[1] else { panic!("{:?}", all[1]) };
    assert_eq!(run.heredocs[0].content, "echo $x\n# no comment\n");
    assert!(run.heredocs[0].expand);
    let Kind::Copy(copy) = &all[2] else { panic!("{:?}", all[2]) };
    assert_eq!(copy.destination, "/d/");
    assert!(copy.sources.is_empty());
    assert_eq!(copy.heredocs.iter().map(|h| h.name.as_str()).collect::<Vec<_>>(), ["a.txt", "b"]);
    assert_eq!((copy.heredocs[1].text().as_str(), copy.heredocs[1].expand), ("B\n", false));
    assert!(refused("FROM a\nRUN <<EOF\necho").contains("line 2, column 5: unterminated heredoc"));
    let Kind::Onbuild(text) = &kinds("FROM a\nONBUILD RUN <<E\nhi\nE\n")[1] else { panic!() };
    assert_eq!(text, "RUN <<E\nhi\nE");
}

#[test]
fn instructions_are_taken_apart() {
    let all = kinds(
        "ARG V=1 W\nFROM --platform=linux/amd64 busybox:$V AS Base\nENV a=b c=\"d e\" f=g\\ h\nENV old form of it\n\
         LABEL \"x y\"=z\nEXPOSE 80 53/udp\nVOLUME [\"/a b\"]\nVOLUME /x /y\nUSER a:b\nWORKDIR /a b\nSTOPSIGNAL 9\n\
         SHELL [\"/bin/ash\", \"-c\"]\nCMD echo hi\nENTRYPOINT [\"a\", \"b\"]\nHEALTHCHECK --interval=1m30s --retries=2 CMD true\n\
         HEALTHCHECK NONE\nCOPY --from=base --chown=1:2 --link a b c/\nADD --checksum=sha256:x [\"a b\", \"/c\"]\n",
    );
    assert_eq!(all[0], Kind::Arg(vec![("V".into(), Some("1".into())), ("W".into(), None)]));
    let Kind::From(from) = &all[1] else { panic!() };
    assert_eq!((from.image.as_str(), from.name.as_deref()), ("busybox:$V", Some("base")));
    let Kind::Env(env) = &all[2] else { panic!() };
    assert_eq!(env[1], ("c".into(), "\"d e\"".into()));
    assert_eq!(env[2].1, "g\\ h");
    assert_eq!(all[3], Kind::Env(vec![("old".into(), "form of it".into())]));
    assert_eq!(all[4], Kind::Label(vec![("\"x y\"".into(), "z".into())]));
    assert_eq!(all[6], Kind::Volume(vec!["/a b".into()]));
    assert_eq!(all[9], Kind::Workdir("/a b".into()));
    assert_eq!(all[12], Kind::Cmd(Command::Shell("echo hi".into())));
    assert_eq!(all[13], Kind::Entrypoint(Command::Exec(vec!["a".into(), "b".into()])));
    let Kind::Healthcheck(h) = &all[14] else { panic!() };
    assert_eq!(h["Interval"], 90_000_000_000_u64);
    assert_eq!(h["Test"], serde_json::json!(["CMD-SHELL", "true"]));
    let Kind::Copy(c) = &all[16] else { panic!() };
    assert_eq!((c.sources.len(), c.destination.as_str(), c.link), (2, "c/", true));
    let Kind::Add(a) = &all[17] else { panic!() };
    assert_eq!(a.sources, ["a b"]);
}

#[test]
fn mounts_of_run_are_read() {
    let all = kinds(
        "FROM a\nRUN --mount=type=cache,target=/c,sharing=locked,id=x --mount=type=secret,id=s,env=S --mount=target=/b,rw make",
    );
    let Kind::Run(run) = &all[1] else { panic!() };
    assert_eq!(run.mounts[0].kind, MountKind::Cache);
    assert_eq!((run.mounts[1].env.as_str(), run.mounts[1].target.as_str()), ("S", ""));
    assert_eq!((&run.mounts[2].kind, run.mounts[2].read_only), (&MountKind::Bind, Some(false)));
    for (mount, why) in [
        ("type=zip,target=/x", "unsupported mount type"),
        ("type=cache", "target=PATH"),
        ("target=/x,nope=1", "unexpected key"),
        ("type=secret", "id=NAME"),
        ("type=cache,target=/x,size=1", "tmpfs only"),
    ] {
        let e = refused(&format!("FROM a\nRUN --mount={mount} x"));
        assert!(e.contains(why), "{mount}: {e}");
    }
}

#[test]
fn errors_say_where_and_what_to_do() {
    for (text, wanted) in [
        ("", "cannot be empty"),
        ("# only\n", "cannot be empty"),
        ("ARG A", "no FROM"),
        ("RUN x", "line 1, column 1: no build stage"),
        ("FROM a\n  RUNN x", "line 2, column 3: unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM a\nFORM b", "(did you mean FROM?)"),
        ("FROM a b", "column 6: FROM requires either one or three arguments"),
        ("FROM a AS 1b", "line 1, column 11: invalid name for build stage: \"1b\""),
        ("FROM a\nCOPY --form=b a b", "column 6: unknown flag: --form of COPY (did you mean from?)"),
        ("FROM a\nCOPY a", "COPY requires at least two arguments"),
        ("FROM a\nENV a", "ENV must have two arguments"),
        ("FROM a\nENV a=b c", "column 9: Syntax error - can't find = in \"c\""),
        ("FROM a\nENV a=b \\\n  c", "line 3, column 3: Syntax error"),
        ("FROM a\nSHELL sh -c", "JSON form"),
        ("FROM a\nHEALTHCHECK FOO", "Unknown type \"FOO\""),
        ("FROM a\nHEALTHCHECK --interval=1 CMD x", "invalid duration"),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("FROM a\nONBUILD FROM x", "isn't allowed as an ONBUILD trigger"),
        ("FROM a\nRUN", "RUN requires at least one argument"),
        ("FROM a\nUSER a b", "exactly one argument"),
        ("# escape=x\nFROM a", "invalid escape token"),
        ("# escape=`\n# escape=`\nFROM a", "only one escape"),
        ("FROM a\nRUN --security=x y", "sandbox or insecure"),
        ("FROM a\nEXPOSE --udp 80", "line 2, column 8: unknown flag: --udp of EXPOSE"),
        ("FROM a\nWORKDIR --mode=700 /a", "unknown flag: --mode of WORKDIR"),
        ("FROM a\nUSER --x a", "unknown flag: --x of USER"),
        ("FROM a\nVOLUME --x /a", "unknown flag: --x of VOLUME"),
        ("FROM a\nARG --x A", "unknown flag: --x of ARG"),
        ("FROM a\nENV A=1 B=${A", "line 2, column 9: syntax error: missing '}' after ${A"),
        ("FROM --platform=${ a", "line 1, column 6: bad substitution"),
        ("FROM a\nCOPY --link \\\n  --chown=${A a /", "line 3, column 3: syntax error: missing '}'"),
        ("FROM a\nCOPY --exclude=a --exclude=${} b /", "line 2, column 18: bad substitution"),
        ("FROM a\nRUN --mount=type=tmpfs,target=/t --mount=from=b,target=${ x", "line 2, column 34: bad"),
        ("FROM a\nRUN --network=${A^} x", "line 2, column 5: unsupported modifier"),
        ("FROM a\nCOPY [\"a\\\\\", \\\n \"${\", \"/\"]", "line 3, column 2: bad substitution"),
        ("FROM a\nVOLUME [\"/a\", \"/${\"]", "line 2, column 15: bad substitution"),
        ("FROM a\nCOPY <<A <<-B /\n${C}\nA\n\tx\n\té${\n\tB", "line 6, column 3: bad substitution"),
        ("FROM a\nONBUILD COPY --chown=${ a /", "line 2, column 9: bad substitution"),
        ("FROM a\nCOPY a \\\n  ${A^} c", "line 3, column 3: unsupported modifier (^) in substitution of A"),
        ("FROM ${A:x}", "line 1, column 6: unsupported modifier"),
        ("FROM a\nWORKDIR 'a", "column 9: unexpected end of statement"),
    ] {
        let e = refused(text);
        assert!(e.contains(wanted), "{text:?}: {e}");
    }
}

#[test]
fn variables_are_replaced_as_a_shell_does() {
    let lookup = |n: &str| match n {
        "a" => Some("alpha.tar.gz".to_owned()),
        "e" => Some(String::new()),
        "s" => Some("x y".to_owned()),
        _ => None,
    };
    let x = Expander { escape: '\\', lookup: &lookup };
    for (text, wanted) in [
        ("$a", "alpha.tar.gz"),
        ("${a}b", "alpha.tar.gzb"),
        ("'$a'", "$a"),
        ("\"$a\"", "alpha.tar.gz"),
        ("\\$a", "$a"),
        ("\"\\$a\\n\"", "$a\\n"),
        ("$u|${u}", "|"),
        ("${u:-d}${e:-d}${e-d}", "dd"),
        ("${u:-${a}}", "alpha.tar.gz"),
        ("${a:+y}${u:+y}${e+z}", "yz"),
        ("${a#*.}", "tar.gz"),
        ("${a##*.}", "gz"),
        ("${a%.*}", "alpha.tar"),
        ("${a%%.*}", "alpha"),
        ("${a/a/A}", "Alpha.tar.gz"),
        ("${a//a/A}", "AlphA.tAr.gz"),
        ("${a//?a/-}", "alp-.-r.gz"),
        ("${a/*a/x}${a//x*/y}", "xr.gzalpha.tar.gz"),
        ("100$", "100$"),
        ("$ x", "$ x"),
        ("a\\ b", "a b"),
    ] {
        assert_eq!(x.word(text).as_deref(), Ok(wanted), "{text}");
    }
    assert_eq!(x.words("a $s \"$s\" '' b").expect("splits"), ["a", "x", "y", "x y", "", "b"]);
    for (text, why) in [
        ("${u:?gone}", "u: gone"),
        ("${a", "missing '}'"),
        ("${}", "bad substitution"),
        ("'open", "single-quote"),
        ("${a^}", "unsupported modifier"),
    ] {
        let e = x.word(text).expect_err(text);
        assert!(e.contains(why), "{text}: {e}");
    }
    assert_eq!(x.heredoc("\"$a\" '\\$a' \\n").expect("replaces"), "\"alpha.tar.gz\" '$a' \\n");
    let nested = "${u:-".repeat(500) + &"}".repeat(500);
    assert!(x.word(&nested).expect_err("too deep").contains("nested"), "a bound");
    let long = "a".repeat((8 << 20) + 1);
    let lookup = |_: &str| Some(long.clone());
    let x = Expander { escape: '\\', lookup: &lookup };
    for e in [x.word("$a$a"), x.heredoc("$a$a").map_err(|(_, e)| e), x.word("\"$a${a}\"")] {
        assert!(e.expect_err("too long").contains("more than"), "a bound");
    }
}

#[test]
fn patterns_fit_paths() {
    for (pattern, path, fits) in [
        ("*.go", "a.go", true),
        ("*.go", "a/b.go", false),
        ("**/*.go", "a/b.go", true),
        ("**/*.go", "b.go", true),
        ("a/**", "a/b/c", true),
        ("a/**/c", "a/c", true),
        ("a/**/c", "a/b/x/c", true),
        ("a/**/c", "a/bc", false),
        ("**/c", "ac", false),
        ("?[a-c]", "xb", true),
        ("?[^a-c]", "xb", false),
        ("\\*", "*", true),
    ] {
        assert_eq!(Glob::path(pattern).expect(pattern).matches(path), fits, "{pattern} {path}");
    }
    for bad in ["[", "[a", "a\\", "[]", "[-]"] {
        assert!(Glob::path(bad).is_err(), "{bad}");
    }
}

#[test]
fn what_is_ignored_is_decided_by_the_last_pattern_that_fits() {
    let i =
        Ignore::parse("# c\n\n*.md\n!README.md\n/node_modules\n./tmp/\n**/*.log\nvendor/*\n!vendor/keep\n")
            .expect("parses");
    for (path, by) in [
        ("a.md", Some("*.md")),
        ("README.md", None),
        ("docs/a.md", None),
        ("node_modules/x/y", Some("/node_modules")),
        ("tmp/x", Some("./tmp/")),
        ("a/b/c.log", Some("**/*.log")),
        ("vendor/x", Some("vendor/*")),
        ("vendor/keep/x", None),
        ("src/main.rs", None),
    ] {
        assert_eq!(i.excluded_by(path), by, "{path}");
    }
    assert!(Ignore::parse("ok\n!").expect_err("refused").contains("line 2"));
}

/// Bytes made from the pieces that the grammar is about; nothing of it may panic or take long.
#[test]
fn no_text_panics() {
    use proptest::prelude::*;
    let piece = prop::sample::select(vec![
        "FROM ",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ONBUILD ",
        "HEALTHCHECK ",
        "--mount=",
        "--from=",
        "<<EOF",
        "<<-'a b'",
        "EOF",
        "\n",
        "\\\n",
        "\\",
        "\"",
        "'",
        "$",
        "${",
        "}",
        ":-",
        "=",
        "[",
        "]",
        "a",
        "é",
        "\t",
        " ",
        "#",
        "# escape=`\n",
        "`",
        "**/",
        "!",
        "type=cache,",
        "target=/x",
        "\u{feff}",
        "\r\n",
        "1",
        "/",
        "%",
        "%%",
    ]);
    let texts = prop::collection::vec(piece, 0..40).prop_map(|p| p.concat());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let lookup = |n: &str| Some(n.to_owned());
    let x = Expander { escape: '\\', lookup: &lookup };
    runner
        .run(&texts, |t| {
            if let Err(e) = parse(&t) {
                prop_assert!(e.line >= 1 && e.column >= 1);
            }
            let _ = (parse_one(&t), x.word(&t), x.words(&t), x.heredoc(&t), Ignore::parse(&t));
            Ok(())
        })
        .expect("no text panics");
}
