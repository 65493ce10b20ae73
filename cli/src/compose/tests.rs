//! Good and bad files, and any text at all.

use proptest::prelude::*;

use super::interpolate::{Variables, expand};
use super::node::{At, Kind, Node, Tag, Type};
use super::{Dialect, Error, Options, emit, load, yaml};

/// Loads files that are written into a directory first; the last of them are named to `load`.
fn loaded(files: &[(&str, &str)], named: &[&str]) -> (tempfile::TempDir, Result<super::Project, Error>) {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).expect("a file");
    }
    let named: Vec<String> = named.iter().map(|n| dir.path().join(n).display().to_string()).collect();
    let variables = [("TAG", "7"), ("EMPTY", ""), ("N", "3"), ("HOME_TOWN", "x")];
    let variables = variables.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let profiles = vec!["extra".into()];
    let project = load(&Options {
        files: &named,
        variables,
        profiles,
        services: Vec::new(),
        interpolate: true,
        env_files: true,
        whole_paths: true,
        consistent: true,
        dialect: Dialect::Stack,
        directory: None,
    });
    (dir, project)
}

/// What one file comes to as YAML, or what is wrong with it; the directory is `DIR`.
fn outcome(files: &[(&str, &str)], named: &[&str]) -> String {
    let (dir, project) = loaded(files, named);
    let text = project.map_or_else(|e| e.to_string(), |p| super::to_yaml(&p.root));
    text.replace(&dir.path().display().to_string(), "DIR")
}

fn one(text: &str) -> String {
    outcome(&[("c.yml", text)], &["c.yml"])
}

/// The one service of a file that is given without its first lines.
fn service(text: &str) -> String {
    let inner: String = text.lines().map(|l| format!("    {l}\n")).collect();
    let out = one(&format!(
        "networks: {{net: }}\nvolumes: {{v: }}\nsecrets: {{s: {{file: s}}}}\nservices:\n  w:\n{inner}"
    ));
    match out.split_once("  w:\n").and_then(|(_, rest)| rest.split_once("networks:\n  net: {}")) {
        Some((service, _)) => {
            service.lines().map(|l| l.strip_prefix("    ").unwrap_or(l).to_owned() + "\n").collect()
        }
        None => out,
    }
}

#[test]
fn short_forms_become_long_ones() {
    let cases = [
        ("command: sleep \"a b\" 1", "command:\n  - sleep\n  - a b\n  - \"1\"\n"),
        ("environment: [A=1, B, TAG]", "environment:\n  A: \"1\"\n  B: null\n  TAG: \"7\"\n"),
        ("environment: {A: 1.10, B: true}", "environment:\n  A: \"1.10\"\n  B: \"true\"\n"),
        (
            "ports: [\"8080:80\", 53/udp]",
            "ports:\n  - mode: ingress\n    target: 80\n    published: 8080\n    protocol: tcp\n  - mode: ingress\n    target: 53\n    protocol: udp\n",
        ),
        (
            "volumes: [\"v:/d:ro,nocopy\", \"./x:/y\", /z]",
            "volumes:\n  - type: volume\n    source: v\n    target: /d\n    read_only: true\n    volume:\n      nocopy: true\n  - type: bind\n    source: DIR/x\n    target: /y\n  - type: volume\n    target: /z\n",
        ),
        ("networks: [net]", "networks:\n  net: null\n"),
        ("secrets: [s]", "secrets:\n  - source: s\n"),
        ("dns: 1.1.1.1", "dns:\n  - 1.1.1.1\n"),
        (
            "healthcheck: {test: curl x, retries: 3}",
            "healthcheck:\n  test:\n    - CMD-SHELL\n    - curl x\n  retries: 3\n",
        ),
        ("deploy: {replicas: \"${N}\"}", "deploy:\n  replicas: 3\n"),
        (
            "deploy: {resources: {limits: {memory: 64M}}}",
            "deploy:\n  resources:\n    limits:\n      memory: \"67108864\"\n",
        ),
        ("extra_hosts: {a: 1.2.3.4}", "extra_hosts:\n  - a:1.2.3.4\n"),
        ("image: i:${TAG:-1}$$x", "image: i:7$x\n"),
        ("tty: yes", "tty: true\n"),
        ("configs: []", "configs: []\n"),
        ("labels: {a: }", "labels:\n  a: null\n"),
    ];
    for (given, wanted) in cases {
        assert_eq!(service(given), wanted, "{given}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let cases = [
        ("", "DIR/c.yml:1:1: the file is empty"),
        ("a", "DIR/c.yml:1:1: want a mapping at the top level, not a string"),
        (
            "services:\n  web:\n    imgae: x\n",
            "DIR/c.yml:3:5: services.web: unknown key \"imgae\": did you mean \"image\"?",
        ),
        ("service:\n  web: {}\n", "DIR/c.yml:1:1: unknown key \"service\": did you mean \"services\"?"),
        ("services:\n  web:\n    colour: red\n", "DIR/c.yml:3:5: services.web: unknown key \"colour\""),
        (
            "services:\n  web:\n    ports: 80\n    tty: maybe\n",
            "DIR/c.yml:3:12: services.web.ports: want a list, not \"80\"\nDIR/c.yml:4:10: services.web.tty: want true or false, not \"maybe\"",
        ),
        (
            "services:\n  web:\n    image: [a]\n",
            "DIR/c.yml:3:12: services.web.image: want a string, not a list",
        ),
        ("services:\n  web:\n    image: 5\n", "DIR/c.yml:3:12: services.web.image: want a string, not \"5\""),
        (
            "services:\n  web:\n    deploy:\n      replicas: two\n",
            "DIR/c.yml:4:17: services.web.deploy.replicas: want a whole number, not \"two\"",
        ),
        (
            "services:\n  web:\n    deploy: {update_config: {order: sideways}}\n",
            "DIR/c.yml:3:37: services.web.deploy.update_config.order: want one of start-first, stop-first, not \"sideways\"",
        ),
        (
            "services:\n  web:\n    stop_grace_period: 5\n",
            "DIR/c.yml:3:24: services.web.stop_grace_period: want a duration like 1m30s, not \"5\"",
        ),
        (
            "services:\n  web:\n    image: a\n    image: b\n",
            "DIR/c.yml:4:5: key \"image\" is already given in line 3",
        ),
        (
            "services:\n  web:\n    image: ${TAG\n",
            "DIR/c.yml:3:12: services.web.image: invalid interpolation format \"${TAG\": you may need to escape any $ with another $",
        ),
        (
            "services:\n  web:\n    image: ${NOPE:?say which}\n",
            "DIR/c.yml:3:12: services.web.image: required variable NOPE is missing a value: say which",
        ),
        (
            "services:\n  web:\n    ports: [\"80:x\"]\n",
            "DIR/c.yml:3:13: services.web.ports: \"80:x\": want a port from 1 to 65535, or a range of them",
        ),
        (
            "services:\n  web:\n    ports: [\"80-82:80-81\"]\n",
            "DIR/c.yml:3:13: services.web.ports: \"80-82:80-81\": the two ranges of ports differ in length",
        ),
        (
            "services:\n  web:\n    volumes: [\"a:/b:rwx\"]\n",
            "DIR/c.yml:3:15: services.web.volumes: \"a:/b:rwx\": unknown option \"rwx\"",
        ),
        (
            "services:\n  web:\n    networks: [front]\n",
            "DIR/c.yml:3:16: service \"web\" refers to undefined network \"front\"",
        ),
        (
            "services:\n  web:\n    secrets: [s]\n    volumes: [\"v:/v\"]\n",
            "DIR/c.yml:4:15: service \"web\" refers to undefined volume \"v\"\nDIR/c.yml:3:15: service \"web\" refers to undefined secret \"s\"",
        ),
        (
            "services:\n  web:\n    extends: {service: web}\n",
            "DIR/c.yml:3:14: services.web.extends: goes round in a circle: web -> web",
        ),
        (
            "services:\n  web:\n    extends: other\n",
            "DIR/c.yml:3:14: services.web.extends: no service \"other\" in DIR/c.yml",
        ),
        (
            "services:\n  web:\n    extends: {file: gone.yml, service: a}\n",
            "DIR/c.yml:3:21: extends: open DIR/gone.yml: No such file or directory (os error 2)",
        ),
        (
            "services:\n  web:\n    env_file: gone\n",
            "DIR/c.yml:3:15: open DIR/gone: No such file or directory (os error 2)",
        ),
        (
            "services:\n  web:\n    command: a 'b\n",
            "DIR/c.yml:3:14: services.web.command: a quote is not closed",
        ),
        (
            "networks:\n  n: {external: true, driver: overlay}\n",
            "DIR/c.yml:2:23: n: what is external has no other keys: \"driver\"",
        ),
        (
            "include: [a.yml]\n",
            "DIR/c.yml:1:11: include: open DIR/a.yml: No such file or directory (os error 2)",
        ),
        ("include: [c.yml]\n", "DIR/c.yml:1:10: include: goes round in a circle: DIR/c.yml -> DIR/c.yml"),
        ("a: 1\n---\nb: 2\n", "DIR/c.yml:2:1: a second document: a Compose file is one"),
    ];
    for (given, wanted) in cases {
        assert_eq!(one(given), wanted, "{given}");
    }
    for broken in ["a: [", "a: b: c", "\tx: 1", "a: *x", "[1]: 2"] {
        assert!(one(broken).starts_with("DIR/c.yml:"), "{broken}: {}", one(broken));
    }
}

#[test]
fn later_files_are_merged_into_earlier_ones() {
    let base = "services:\n  web:\n    image: a\n    command: one two\n    ports: [\"80:80\"]\n    dns: 1.1.1.1\n    environment: {A: 1, B: 2}\n    volumes: [\"/x:/data\"]\n    logging: {driver: syslog, options: {tag: x}}\n";
    let over = "services:\n  web:\n    image: b\n    command: [three]\n    ports: [\"80:80\", \"81:80\"]\n    dns: [8.8.8.8]\n    environment: [B=3, C=4]\n    volumes: [\"/y:/data\"]\n    logging: {driver: local}\n  db:\n    image: c\n";
    let wanted = "services:\n  db:\n    image: c\n  web:\n    command:\n      - three\n    dns:\n      - 1.1.1.1\n      - 8.8.8.8\n    environment:\n      A: \"1\"\n      B: \"3\"\n      C: \"4\"\n    image: b\n    logging:\n      driver: local\n    ports:\n      - mode: ingress\n        target: 80\n        published: 80\n        protocol: tcp\n      - mode: ingress\n        target: 80\n        published: 81\n        protocol: tcp\n    volumes:\n      - type: bind\n        source: /y\n        target: /data\n";
    assert_eq!(outcome(&[("a.yml", base), ("b.yml", over)], &["a.yml", "b.yml"]), wanted);
    let tags =
        "services:\n  web:\n    dns: !override [9.9.9.9]\n    ports: !reset []\n    image: !reset null\n";
    let out = outcome(&[("a.yml", base), ("b.yml", tags)], &["a.yml", "b.yml"]);
    assert!(
        out.contains("dns:\n      - 9.9.9.9\n") && !out.contains("ports") && !out.contains("image"),
        "{out}"
    );
}

#[test]
fn services_extend_others_and_profiles_leave_some_out() {
    let base = "services:\n  common:\n    image: a\n    env_file: e\n    environment: {A: 1}\n";
    let text = "x-e: &e\n  labels: {l: m}\nservices:\n  web:\n    <<: *e\n    extends: {file: base.yml, service: common}\n    environment: {B: 2}\n  tool: {image: t, profiles: [debug]}\n  more: {image: m, profiles: [extra]}\n";
    let files = [("base.yml", base), ("c.yml", text), ("e", "# c\nE=f g\nHOME_TOWN\nA=9\n")];
    let wanted = "services:\n  more:\n    profiles:\n      - extra\n    image: m\n  web:\n    environment:\n      E: f g\n      HOME_TOWN: x\n      A: \"1\"\n      B: \"2\"\n    image: a\n    labels:\n      l: m\nx-e:\n  labels:\n    l: m\n";
    let out = outcome(&files, &["c.yml"]);
    let sorted = wanted.replace(
        "      E: f g\n      HOME_TOWN: x\n      A: \"1\"\n      B: \"2\"\n",
        "      A: \"1\"\n      B: \"2\"\n      E: f g\n      HOME_TOWN: x\n",
    );
    assert_eq!(out, sorted);
}

#[test]
fn variables_are_listed_with_what_stands_in_their_place() {
    let mut found = Vec::new();
    super::used("$A ${B} ${C:-c} ${D?why} ${E:+e${F-${G}}} $$H ${ $ ${1} }", &mut found);
    let shown: Vec<String> =
        found.iter().map(|u| format!("{}/{}/{}/{}", u.name, u.required, u.default, u.alternate)).collect();
    assert_eq!(
        shown,
        [
            "A/false//",
            "B/false//",
            "C/false/c/",
            "D/true//",
            "E/false//e${F-${G}}",
            "F/false/${G}/",
            "G/false//"
        ]
    );
    let deep = "${A-".repeat(100_000) + &"}".repeat(100_000);
    super::used(&deep, &mut found);
}

#[test]
fn aliases_stand_for_no_endless_document() {
    let mut text = "x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..10 {
        let many = format!("*a{}, ", i - 1).repeat(10);
        text.push_str(&format!("x-a{i}: &a{i} [{many}]\n"));
    }
    assert!(one(&text).contains("more than 200000 values"), "{}", one(&text));
    assert!(one(&"[".repeat(100)).contains("more than 64 levels"));
    assert!(one(&"[".repeat(100_000)).starts_with("DIR/c.yml:1:"));
}

#[test]
fn variables_are_expanded_as_by_a_shell() {
    let vars: Variables = [("A", "a"), ("E", "")].iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let cases = [
        ("$A-${A}", Some("a-a")),
        ("${B-d}${E-d}${E:-d}", Some("dd")),
        ("${A+r}${E+r}${E:+r}${B+r}", Some("rr")),
        ("${B:-${A}x}", Some("ax")),
        ("$$A$$", Some("$A$")),
        ("${A:?no}", Some("a")),
        ("${B?no}", None),
        ("${E:?no}", None),
        ("$", None),
        ("${}", None),
        ("${A!}", None),
        ("$1", None),
    ];
    for (given, wanted) in cases {
        let got = expand(given, &vars, 0, &mut Vec::new());
        assert_eq!(got.ok().as_deref(), wanted, "{given}");
    }
}

/// A node without its places.
fn bare(node: &Node) -> Node {
    let at = At { file: "".into(), line: 0, column: 0 };
    let kind = match &node.kind {
        Kind::List(items) => Kind::List(items.iter().map(bare).collect()),
        Kind::Map(entries) => Kind::Map(
            entries
                .iter()
                .map(|(k, v)| (super::node::Key { text: k.text.clone(), at: at.clone() }, bare(v)))
                .collect(),
        ),
        Kind::Scalar(ty, text) => Kind::Scalar(*ty, text.clone()),
    };
    Node { at, tag: Tag::None, kind }
}

fn tree() -> impl Strategy<Value = Node> {
    let at = || At { file: "".into(), line: 0, column: 0 };
    let word = "[-\\[\\]{}:,&*!|>'\"%@`#~a0x \n.yn]{0,8}";
    let scalar = prop_oneof![
        word.prop_map(move |t| Node::string(&at(), t)),
        any::<i64>().prop_map(move |n| Node::int(&at(), n / 2)),
        any::<bool>().prop_map(move |b| Node::bool(&at(), b)),
    ];
    scalar.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(move |items| Node::list(&at(), items)),
            prop::collection::btree_map(word, inner, 0..4).prop_map(move |map| {
                let mut node = Node::map(&at());
                map.into_iter().filter(|(k, _)| k != "<<").for_each(|(k, v)| node.set(&k, v));
                node
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_text_is_a_project_or_an_error(text in "[-\\[\\]{}:,&*!|>'\"%@`#a0x \n\t$]{0,64}") {
        let _ = one(&text);
    }

    #[test]
    fn any_words_where_a_service_has_its_keys(
        key in prop::sample::select(vec![
            "ports", "volumes", "networks", "environment", "command", "env_file", "extends", "secrets", "deploy",
            "healthcheck", "ulimits", "extra_hosts", "labels", "build", "depends_on", "logging", "tmpfs", "configs",
        ]),
        value in "[-\\[\\]{}:,a0/.$=~ ]{0,32}",
    ) {
        let _ = one(&format!("services:\n  w:\n    {key}: {value}\n"));
        let _ = one(&format!("services:\n  w:\n    {key}: [\"{value}\"]\n"));
    }

    #[test]
    fn any_text_is_expanded_or_refused(text in "[$A{}:?+a -]{0,32}") {
        let _ = expand(&text, &Variables::new(), 0, &mut Vec::new());
    }

    #[test]
    fn what_is_written_reads_back(node in tree()) {
        let mut root = Node::map(&node.at);
        root.set("x", node);
        let text = emit::document(&root);
        let read = yaml::parse("f", &text).map_err(|e| TestCaseError::fail(format!("{e}: {text}")))?;
        prop_assert_eq!(bare(&read), bare(&root), "{}", text);
    }
}

#[test]
fn numbers_are_read_as_go_reads_them() {
    for (text, wanted) in [
        ("0444", Some(0o444)),
        ("0x1f", Some(31)),
        ("-3", Some(-3)),
        ("1.5", None),
        ("a", None),
        ("9".repeat(30).as_str(), None),
    ] {
        assert_eq!(yaml::integer(text), wanted, "{text}");
    }
    assert_eq!(yaml::plain("1.2.3"), Type::Str);
    assert_eq!(yaml::plain("-"), Type::Str);
}
