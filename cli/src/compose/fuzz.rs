//! Any bytes, and any mutation of a good project, are a project or an error that names its place: no panic, no endless
//! work. `PROPTEST_CASES=N` for long.

use proptest::prelude::*;

use super::{Dialect, Error, Options, dotenv, load};

/// A project with a bit of everything.
const GOOD: &str = r#"name: x
include: [{path: part.yml, env_file: vars}]
x-common: &common
  restart: on-failure:3
  environment: {A: "${TAG:-1}", B: "${A:+x}"}
services:
  web:
    <<: *common
    build: {context: ., args: [A=1, B], target: t, secrets: [s], ulimits: {nofile: 5}}
    depends_on: {db: {condition: service_healthy, required: false}, cache: {condition: service_started}}
    ports: ["8080-8081:80-81", "127.0.0.1:53:53/udp", {target: 9, published: "0"}]
    volumes: ["v:/v:ro", "./a:/b", {type: tmpfs, target: /t, tmpfs: {size: 1m}}]
    networks: {n: {aliases: [a], ipv4_address: 10.0.0.2}}
    secrets: [s, {source: s, target: /x, mode: 0400}]
    configs: [{source: c, target: /c}]
    healthcheck: {test: curl x, interval: 1m30s, retries: 3}
    develop: {watch: [{action: sync, path: ./src, target: /app, ignore: ["*.tmp"]}]}
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64M}}}
    env_file: [{path: vars, required: false}]
    command: sh -c "echo 'a b'"
  db: {image: "i:$TAG", network_mode: "service:cache", profiles: [extra]}
  cache: {image: i, extends: {service: base}}
  base: {image: b, extra_hosts: {h: 1.2.3.4}}
networks: {n: {ipam: {config: [{subnet: 10.0.0.0/24}]}}}
volumes: {v: {external: true}}
secrets: {s: {file: ./s}}
configs: {c: {content: "x"}}
"#;
const SIGNS: &[u8] = b"[]{}:,&*!|>'\"%@`#$\n\t -<";
const PART: &str = "services:\n  part: {image: \"p:${TAG}\"}\n";
const VARS: &str = "A='x'\nexport B=\"$A ${TAG:-y}\" # c\n";

/// Loads a file by the rules of projects; what is wrong has a place.
fn read(text: &[u8], part: &[u8], vars: &[u8]) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, bytes) in [("c.yml", text), ("part.yml", part), ("vars", vars)] {
        std::fs::write(dir.path().join(name), bytes).expect("a file");
    }
    let options = Options {
        files: &[dir.path().join("c.yml").display().to_string()],
        variables: [("TAG".to_owned(), "7".to_owned())].into(),
        profiles: vec!["extra".into()],
        services: Vec::new(),
        interpolate: true,
        env_files: true,
        whole_paths: true,
        consistent: true,
        dialect: Dialect::Project,
        directory: None,
    };
    match load(&options) {
        Ok(project) => drop(super::to_yaml(&project.root)),
        Err(Error::Read { .. }) => {}
        Err(Error::NoFile) => return Err(TestCaseError::fail("a file was named")),
        Err(Error::Invalid(problems)) => {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.at.line > 0 && problem.at.column > 0, "{problem}");
            }
        }
    }
    Ok(())
}

/// A text with some of its bytes, lines or words changed, repeated or taken out.
fn mutated(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0_u8..6, any::<u8>(), any::<prop::sample::Index>());
    prop::collection::vec(change, 1..6).prop_map(move |changes| {
        let mut bytes = text.as_bytes().to_vec();
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
        bytes
    })
}

#[test]
fn the_good_project_is_good() {
    read(GOOD.as_bytes(), PART.as_bytes(), VARS.as_bytes()).expect("no complaint");
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in [("c.yml", GOOD), ("part.yml", PART), ("vars", VARS)] {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    let options = Options {
        files: &[dir.path().join("c.yml").display().to_string()],
        variables: super::Variables::new(),
        profiles: vec!["extra".into()],
        services: Vec::new(),
        interpolate: true,
        env_files: true,
        whole_paths: true,
        consistent: true,
        dialect: Dialect::Project,
        directory: None,
    };
    let project = load(&options).expect("a project");
    assert_eq!(project.root.get("services").map(|s| s.entries().len()), Some(5));
}

#[test]
fn bombs_end_with_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("a file");
    let outcome = |variables: super::Variables| {
        let options = Options {
            files: &[dir.path().join("c.yml").display().to_string()],
            variables,
            profiles: Vec::new(),
            services: Vec::new(),
            interpolate: true,
            env_files: true,
            whole_paths: true,
            consistent: true,
            dialect: Dialect::Project,
            directory: None,
        };
        load(&options).map(drop).map_err(|e| e.to_string())
    };
    // Files that each include the next twice.
    for i in 0..40 {
        write(&format!("{i}.yml"), &format!("include: [{0}.yml, {0}.yml]\nservices: {{}}\n", i + 1));
    }
    write("40.yml", "services: {}\n");
    write("c.yml", "include: [0.yml]\nservices: {}\n");
    let said = outcome(super::Variables::new()).expect_err("too many files");
    assert!(said.contains("more than 256 files") || said.contains("more than 64 files"), "{said}");
    // Values that are all of a long variable.
    let many: String = (0..2000).map(|i| format!("  x-{i}: $BIG\n")).collect();
    write("c.yml", &format!("x-all:\n{many}services: {{}}\n"));
    let said = outcome([("BIG".to_owned(), "x".repeat(100_000))].into()).expect_err("too long");
    assert!(said.contains("c.yml:") && said.contains("come to more than"), "{said}");
    // Services that need each other in a long chain, and at last in a circle.
    let chain: String =
        (0..5000).map(|i| format!("  s{i}: {{image: i, depends_on: [s{}]}}\n", (i + 1) % 5000)).collect();
    write("c.yml", &format!("services:\n{chain}"));
    let said = outcome(super::Variables::new()).expect_err("a circle");
    assert!(said.contains("dependency cycle detected"), "{}", &said[..200]);
}

proptest! {
    #[test]
    fn any_bytes_are_a_project_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        read(&bytes, PART.as_bytes(), VARS.as_bytes())?;
    }

    #[test]
    fn a_mutated_project_is_one_or_an_error(text in mutated(GOOD)) {
        read(&text, PART.as_bytes(), VARS.as_bytes())?;
    }

    #[test]
    fn mutated_parts_are_read_or_refused(part in mutated(PART), vars in mutated(VARS)) {
        read(GOOD.as_bytes(), &part, &vars)?;
    }

    #[test]
    fn any_text_is_variables_or_an_error(text in "[A-C='\"$\\\\{}:#a \n\t-]{0,64}") {
        let outer = [("A".to_owned(), "a".to_owned())].into();
        if let Err(problem) = dotenv::parse("f", &text, &outer) {
            prop_assert!(problem.at.line > 0);
        }
    }
}
