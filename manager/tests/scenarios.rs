//! Runs the scenario tables in `scenarios/*.txt` against the leader's logic. A table is a list of commands
//! (`> ...`), each followed by what it must print. `SKEP_SCENARIOS=write cargo test` writes what is printed
//! into the tables, to be read before it is committed.

mod driver;

use std::fs;
use std::path::Path;

use driver::Driver;

fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios").join(format!("{name}.txt"));
    let table = fs::read_to_string(&path).expect("the table can be read");
    let mut driver = Driver::new();
    let mut actual = String::new();
    let mut output: Option<String> = None;
    for line in table.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            actual.push_str(output.take().as_deref().unwrap_or_default());
            if command == "reset" {
                driver = Driver::new();
            }
            actual.push_str(line);
            actual.push('\n');
            output = Some(driver.run(command).unwrap_or_else(|e| format!("error: {e}\n")));
        } else if line.is_empty() || line.starts_with('#') {
            actual.push_str(output.take().as_deref().unwrap_or_default());
            actual.push_str(line);
            actual.push('\n');
        }
    }
    actual.push_str(output.take().as_deref().unwrap_or_default());
    if std::env::var_os("SKEP_SCENARIOS").is_some_and(|v| v == "write") {
        fs::write(&path, actual).expect("the table can be written");
    } else if actual != table {
        let differs = actual.lines().zip(table.lines()).position(|(a, b)| a != b);
        panic!(
            "{name}.txt differs from line {:?} on; this is what happened:\n{actual}",
            differs.map(|n| n + 1)
        );
    }
}

#[test]
fn orchestrator() {
    run("orchestrator");
}
#[test]
fn global() {
    run("global");
}
#[test]
fn jobs() {
    run("jobs");
}
#[test]
fn cron() {
    run("cron");
}
#[test]
fn data() {
    run("data");
}
#[test]
fn foresight() {
    run("foresight");
}
#[test]
fn generic() {
    run("generic");
}
#[test]
fn prerequisites() {
    run("prerequisites");
}
#[test]
fn rebalance() {
    run("rebalance");
}
#[test]
fn restart() {
    run("restart");
}
#[test]
fn updater() {
    run("updater");
}
#[test]
fn allocator() {
    run("allocator");
}
#[test]
fn scheduler() {
    run("scheduler");
}
#[test]
fn reaper() {
    run("reaper");
}
