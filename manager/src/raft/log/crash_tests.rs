//! The log under crashes at every write, flipped bits and a full disk.

use std::sync::Arc;

use skep_identity::UnlockKey;
use skep_proto::v1;

use super::sim_disk::SimDisk;
use super::{KeyFile, Log, LogError, LogOptions, Record};
use crate::raft::disk::Disk as _;

fn options(disk: &SimDisk) -> LogOptions {
    LogOptions { state_dir: "/state".into(), disk: Arc::new(disk.clone()), segment_bytes: 4096, unlock: None }
}

fn identity() -> v1::RaftIdentity {
    v1::RaftIdentity { raft_id: 7, node_id: "n1".into(), cluster_id: "c1".into() }
}

fn entry(index: u64, term: u64) -> v1::RaftEntry {
    let data = vec![(index % 251) as u8; 40 + (index as usize * 97) % 700];
    v1::RaftEntry { index, term, data, ..Default::default() }
}

fn snapshot(index: u64, term: u64) -> v1::RaftSnapshot {
    let conf_state = Some(v1::RaftConfState { voters: vec![7], ..Default::default() });
    v1::RaftSnapshot { data: vec![9; 3000], conf_state, index, term }
}

/// What the log should hold: entries by index, from 2 on.
#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    entries: Vec<v1::RaftEntry>,
    hard_state: v1::RaftHardState,
}

impl Model {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Entry(entry) => {
                self.entries.retain(|old| old.index < entry.index);
                self.entries.push(entry.clone());
            }
            Record::HardState(hard_state) => self.hard_state = *hard_state,
            _ => {}
        }
    }

    fn behind(&self, index: u64) -> Vec<v1::RaftEntry> {
        self.entries.iter().filter(|entry| entry.index > index).cloned().collect()
    }
}

enum Step {
    Append(Vec<Record>),
    Snapshot(u64, u64),
}

/// Batches of several sizes, a conflict that overwrites entries, snapshots with compaction between.
fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    let mut index = 2;
    for round in 0..18u64 {
        if round == 9 {
            index -= 3;
        }
        let term = if round < 9 { 1 } else { 2 };
        let mut records: Vec<Record> = (0..1 + round % 4)
            .map(|_| {
                index += 1;
                Record::Entry(entry(index - 1, term))
            })
            .collect();
        records.push(Record::HardState(v1::RaftHardState { term, vote: round, commit: 1 }));
        steps.push(Step::Append(records));
        if round == 6 || round == 14 {
            steps.push(Step::Snapshot(index - 4, term));
        }
    }
    steps
}

struct Run {
    acknowledged: Option<Model>,
    in_flight: Vec<Record>,
    finished: bool,
}

/// Runs the steps until the disk fails.
fn run(disk: &SimDisk) -> Run {
    let mut run = Run { acknowledged: None, in_flight: Vec::new(), finished: false };
    let Ok(mut log) = Log::create(&options(disk), identity(), Some(&snapshot(1, 1))) else { return run };
    let hard_state = v1::RaftHardState { term: 1, vote: 0, commit: 1 };
    let mut model = Model { hard_state, ..Model::default() };
    run.acknowledged = Some(model.clone());
    for step in steps() {
        match step {
            Step::Append(records) => {
                run.in_flight = records.clone();
                if log.append(&records, true).is_err() {
                    return run;
                }
                records.iter().for_each(|record| model.apply(record));
                run.acknowledged = Some(model.clone());
                run.in_flight.clear();
            }
            Step::Snapshot(index, term) => {
                let snapshots = log.snapshots();
                let written = snapshots.write(&snapshot(index, term));
                if written
                    .and_then(|()| snapshots.remove_before(index, 0))
                    .and_then(|()| log.compact(index))
                    .is_err()
                {
                    return run;
                }
            }
        }
    }
    run.finished = true;
    run
}

fn check(disk: &SimDisk, run: &Run, place: &str) {
    let recovered = match (Log::open(&options(disk)), &run.acknowledged) {
        (Ok(recovered), _) => recovered,
        (Err(LogError::Missing { .. }), None) => return,
        // A first snapshot without a segment: creating did not finish, and starts over.
        (Err(_), None) if !Log::exists(&options(disk)) => return,
        (Err(error), _) => panic!("{place}: {error}"),
    };
    let Some(mut model) = run.acknowledged.clone() else { return };
    let index = recovered.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
    let matches = |model: &Model| {
        // An entry of a newer term than the hard state says that the term is known, and no vote given in it.
        let newest = model.entries.last().map_or(0, |entry| entry.term);
        let (term, vote) = match model.hard_state {
            state if newest > state.term => (newest, 0),
            state => (state.term, state.vote),
        };
        model.behind(index) == recovered.entries
            && (recovered.hard_state.term, recovered.hard_state.vote) == (term, vote)
    };
    if matches(&model) {
        return;
    }
    for record in &run.in_flight {
        model.apply(record);
        if matches(&model) {
            return;
        }
    }
    panic!("{place}: recovered {:?} entries behind {index}", recovered.entries.len());
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged() {
    for seed in 0..6 {
        let mut at = 0;
        loop {
            let disk = SimDisk::default();
            disk.fail_at(at);
            let run = run(&disk);
            let finished = run.finished;
            disk.restart(seed * 1000 + at);
            check(&disk, &run, &format!("crash at change {at}, seed {seed}"));
            // And again: what recovery left behind must itself be sound.
            disk.restart(seed);
            check(&disk, &run, &format!("second start after a crash at change {at}, seed {seed}"));
            if finished {
                assert!(at > 60, "the steps made only {at} changes");
                break;
            }
            at += 1;
        }
    }
}

#[test]
fn the_log_goes_on_after_a_crash() {
    for at in 20..90 {
        let disk = SimDisk::default();
        disk.fail_at(at);
        let mut run = run(&disk);
        disk.restart(at);
        if run.acknowledged.is_none() {
            continue;
        }
        let mut recovered = Log::open(&options(&disk)).expect("opens after a crash");
        let next = recovered.entries.last().map_or(recovered.hard_state.commit, |entry| entry.index) + 1;
        let mut model = Model { entries: recovered.entries.clone(), hard_state: recovered.hard_state };
        let record = Record::Entry(entry(next, 3));
        recovered.log.append(std::slice::from_ref(&record), true).expect("appends after a crash");
        model.apply(&record);
        run.acknowledged = Some(model);
        run.in_flight.clear();
        disk.restart(at + 1);
        check(&disk, &run, &format!("went on after a crash at change {at}"));
    }
}

#[test]
fn a_flipped_bit_is_reported_and_never_loses_an_entry() {
    let disk = SimDisk::default();
    let run = run(&disk);
    assert!(run.finished);
    let (mut reported, mut harmless) = (0, 0);
    for path in disk.paths() {
        let length = crate::raft::disk::Disk::read(&disk, &path).expect("the file is there").len();
        for offset in 0..length {
            let mask = 1 << (offset % 8);
            disk.flip(&path, offset, mask);
            match Log::open(&options(&disk)) {
                Ok(recovered) => {
                    drop(recovered);
                    check(&disk, &run, &format!("{} flipped at {offset}", path.display()));
                    harmless += 1;
                }
                Err(LogError::Corrupt { path: named, offset: at, .. }) => {
                    assert!(
                        named == path || named.starts_with("/state/raft"),
                        "{named:?} named for {path:?}"
                    );
                    assert!(at <= offset as u64, "{path:?}: reported at {at}, flipped at {offset}");
                    reported += 1;
                }
                Err(LogError::WrongKey { .. }) => reported += 1,
                Err(error) => panic!("{path:?} flipped at {offset}: {error}"),
            }
            disk.flip(&path, offset, mask);
        }
    }
    assert!(reported > 1000 && harmless > 0, "{reported} reported, {harmless} harmless");
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let disk = SimDisk::default();
    let mut log = Log::create(&options(&disk), identity(), Some(&snapshot(1, 1))).expect("creates");
    let (mut index, mut refused) = (2, 0);
    for round in 0..60 {
        disk.set_full(round % 6 > 2);
        match log.append(&[Record::Entry(entry(index, 1))], true) {
            Ok(()) => index += 1,
            Err(LogError::DiskFull { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
    disk.restart(1);
    let recovered = Log::open(&options(&disk)).expect("opens");
    assert_eq!(recovered.entries, (2..index).map(|index| entry(index, 1)).collect::<Vec<_>>());
}

#[test]
fn the_log_opens_only_with_its_key() {
    let disk = SimDisk::default();
    let lock = UnlockKey::generate(&mut rand::rng());
    let kek = options(&disk).kek().create(Some(&lock)).expect("creates");
    let with = |key: [u8; 32]| LogOptions { unlock: Some(key), ..options(&disk) };
    drop(Log::create(&with(kek), identity(), Some(&snapshot(1, 1))).expect("creates"));
    assert!(matches!(Log::open(&options(&disk)), Err(LogError::Locked { .. })));
    assert!(matches!(Log::open(&with([1; 32])), Err(LogError::WrongKey { .. })));
    assert!(Log::open(&with(kek)).is_ok());
    disk.remove("/state/kek".as_ref()).expect("removes");
    assert!(matches!(Log::open(&options(&disk)), Err(LogError::Locked { .. })));
}

/// Whatever a crash interrupts, the key opens as it did before or as it was to.
#[test]
fn a_crash_while_the_unlock_key_changes_leaves_the_old_or_the_new_one() {
    let keys: Vec<_> = (0..3).map(|_| UnlockKey::generate(&mut rand::rng())).collect();
    let steps = [None, Some(&keys[0]), Some(&keys[1]), None, Some(&keys[2])];
    let file = |disk: &SimDisk| KeyFile::new(Arc::new(disk.clone()), "/state".as_ref());
    let mut crashes = 0;
    for seed in 0..4 {
        for at in 1.. {
            let disk = SimDisk::default();
            disk.fail_at(at);
            let Ok(key) = file(&disk).create(None) else { continue };
            let broken = (1..steps.len()).find(|i| file(&disk).write(&key, *i as u64, steps[*i]).is_err());
            disk.restart(seed);
            let kept = file(&disk).read().expect("readable").expect("there");
            let opens = |i: usize| kept.is_as(steps[i]) && kept.open(steps[i]).ok() == Some(key);
            let Some(broken) = broken else {
                assert!(opens(steps.len() - 1));
                break;
            };
            assert!(opens(broken - 1) || opens(broken), "crash {at} in step {broken}");
            crashes += 1;
            // Nothing half-made is in the way of the next try.
            file(&disk).write(&key, 9, steps[broken]).expect("writes");
            let kept = file(&disk).read().expect("readable").expect("there");
            assert!(kept.version == 9 && kept.is_as(steps[broken]));
        }
    }
    assert!(crashes > 40, "{crashes}");
}
