//! The daemon killed at random points of load, pull, create, start, commit, remove, volume create and prune: the next one
//! starts, tells what it swept, has all that was acknowledged, and nothing half-made.
//!
//! `SKEP_CRASHES=N` kills it N times; `SKEP_SEED=N` begins with that seed, which every failure names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

mod support;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise)
}

fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    test.ancestors().nth(2).expect("in target/PROFILE/deps").join("examples/crash")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// What must be there, by what was acknowledged; what may be or not, as it was under way.
#[derive(Default)]
struct Expected {
    there: BTreeSet<(String, String)>,
    open: BTreeSet<String>,
    /// How much has been acknowledged.
    done: usize,
}

impl Expected {
    /// Runs the daemon for a while, and kills it.
    fn kill(&mut self, dir: &Path, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed ^ 0xdead);
        let mut worker = Command::new(program())
            .args(["work", &dir.display().to_string(), &seed.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("`cargo test` builds it with the examples");
        let mut lines = BufReader::new(worker.stdout.take().expect("piped")).lines();
        let ready = lines.next().and_then(Result::ok);
        assert_eq!(ready.as_deref(), Some("ready"), "seed {seed}: the daemon does not start");
        std::thread::sleep(Duration::from_micros(random.random_range(0..150_000)));
        worker.kill().expect("kills");
        worker.wait().expect("ends");
        for line in lines.map_while(Result::ok) {
            self.take(&line);
        }
    }

    fn take(&mut self, line: &str) {
        let (did, step) = match line.split_once(' ') {
            Some((word, step)) => (word == "did", step),
            None => return,
        };
        self.done += usize::from(did);
        let words: Vec<&str> = step.split(' ').collect();
        let key = |kind: &str| (kind.to_owned(), words.get(1).copied().unwrap_or_default().to_owned());
        // A removal and a prune may go any way until they are acknowledged, and beyond it where they failed.
        match (words[0], did) {
            ("prune", false) if words[1] == "containers" => {
                self.there.retain(|(kind, _)| kind != "container")
            }
            ("+image" | "+container" | "+volume", true) => {
                self.there.insert(key(&words[0][1..]));
            }
            ("-image" | "-container", false) => {
                self.there.remove(&key(&words[0][1..]));
                self.open.insert(words[1].to_owned());
            }
            ("-image" | "-container", true) => {
                self.open.remove(words[1]);
                self.open.insert(format!("not {}", words[1]));
            }
            _ => {}
        }
    }
}

/// What the next daemon finds: objects by kind and name, each with the rest of its line; and its log.
fn look(dir: &Path, seed: u64) -> (BTreeMap<(String, String), Vec<String>>, String) {
    let out = Command::new(program()).args(["look", &dir.display().to_string()]).output().expect("runs");
    let (text, log) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.ends_with("all told\n"), "seed {seed}: {text}\n{log}");
    let objects = text.lines().filter_map(|line| {
        let mut words = line.split(' ').map(str::to_owned);
        Some(((words.next()?, words.next()?), words.collect::<Vec<_>>()))
    });
    (objects.collect(), log.into_owned())
}

fn check(dir: &Path, expected: &Expected, seed: u64) {
    let data = dir.join("data");
    let folders = ["tmp", "layers", "blobs/sha256", "containers", "volumes"];
    let before = folders.map(|f| names(&data.join(f)));
    let (found, log) = look(dir, seed);
    for object in &expected.there {
        assert!(found.contains_key(object), "seed {seed}: {object:?} is missing\n{log}");
    }
    for (kind, name) in found.keys() {
        assert!(!expected.open.contains(&format!("not {name}")), "seed {seed}: {kind} {name} was removed");
    }
    // Nothing is half-made: what lies on the disk is what is told of, and the other way about.
    let of = |kind: &'static str| found.iter().filter(move |((k, _), _)| k == kind);
    let layers: BTreeSet<String> =
        of("image").flat_map(|(_, rest)| rest[1].split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    let containers: BTreeSet<String> = of("container").map(|(_, rest)| rest[0].clone()).collect();
    let volumes: BTreeSet<String> = of("volume").map(|((_, name), _)| name.clone()).collect();
    let blobs = names(&data.join("blobs/sha256"));
    assert_eq!(names(&data.join("tmp")), BTreeSet::new(), "seed {seed}");
    assert_eq!(names(&data.join("layers")), layers, "seed {seed}: layers\n{log}");
    assert_eq!(names(&data.join("containers")), containers, "seed {seed}: containers\n{log}");
    assert_eq!(names(&data.join("volumes")), volumes, "seed {seed}: volumes\n{log}");
    for ((_, name), rest) in of("image") {
        assert!(blobs.contains(&rest[0]), "seed {seed}: the configuration of {name}");
        let top = data.join("layers").join(rest[1].rsplit(',').next().unwrap_or_default()).join("diff");
        let number = name.strip_prefix("img:").or_else(|| Some(name.rsplit_once("/pulled:")?.1));
        if let Some(number) = number {
            let mut random = StdRng::seed_from_u64(number.parse().expect("a number"));
            let content: Vec<u8> = (0..20_000).map(|_| random.random::<u8>()).collect();
            assert!(
                std::fs::read(top.join("f")).is_ok_and(|f| f == content),
                "seed {seed}: content of {name}"
            );
        } else if name.starts_with("made:") {
            assert!(std::fs::read(top.join("made")).is_ok(), "seed {seed}: content of {name}");
        }
    }
    // What went is told by name.
    for (folder, before) in folders.iter().zip(before) {
        for name in before.difference(&names(&data.join(folder))) {
            assert!(log.contains(name.as_str()), "seed {seed}: {folder}/{name} went unsaid\n{log}");
        }
    }
}

#[test]
fn a_killed_daemon_leaves_nothing_half_made_and_loses_nothing() {
    let first = number("SKEP_SEED", 1);
    println!("SKEP_SEED={first}");
    let dir = tempfile::tempdir().expect("a directory");
    let _tidy = Tidy(dir.path().to_owned());
    let mut expected = Expected::default();
    let crashes = number("SKEP_CRASHES", 12);
    for (round, seed) in (0..10 * crashes).zip(first..) {
        // A slow machine does nothing before so early an end, again and again: that has tried nothing.
        if round >= crashes && expected.done > 0 {
            break;
        }
        expected.kill(dir.path(), seed);
        check(dir.path(), &expected, seed);
    }
    assert!(expected.done > 0, "nothing was done before any of the crashes");
    println!("{} done, {} there", expected.done, expected.there.len());
}

/// Ends what a test left running.
struct Tidy(PathBuf);

impl Drop for Tidy {
    fn drop(&mut self) {
        support::end_containers(&self.0);
    }
}
