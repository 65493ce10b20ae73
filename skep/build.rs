//! Tells the binary which commit it is built from, and when that was made: the same sources are the same binary.
//!
//! `SKEP_COMMIT` and `SOURCE_DATE_EPOCH` say so where there is no git, and go before it.

use std::env::var;
use std::path::Path;
use std::process::Command;

fn main() {
    for name in ["SKEP_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    // Moved by each commit and checkout; a path that is not there would have this run at every build.
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(file) = git(&["rev-parse", "--git-path", path]).filter(|f| Path::new(f).exists()) {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    let commit = var("SKEP_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=7", "HEAD"]));
    let built_at = var("SOURCE_DATE_EPOCH").ok().or_else(|| git(&["log", "-1", "--format=%ct"]));
    for (name, value) in [("SKEP_COMMIT", commit), ("SKEP_BUILT_AT", built_at)] {
        if let Some(value) = value {
            println!("cargo::rustc-env={name}={value}");
        }
    }
}

/// What git answers in Skep's own repository; none where there is no git, or these sources lie in another's.
fn git(args: &[&str]) -> Option<String> {
    let package = var("CARGO_MANIFEST_DIR").ok()?;
    let ask = |args: &[&str]| {
        let out = Command::new("git").args(args).current_dir(&package).output().ok()?;
        let text = String::from_utf8(out.stdout).ok()?;
        out.status.success().then(|| text.trim().to_owned())
    };
    let top = ask(&["rev-parse", "--show-toplevel"])?;
    let own = Path::new(&package).parent()?.canonicalize().ok()? == Path::new(&top).canonicalize().ok()?;
    own.then(|| ask(args)).flatten().filter(|said| !said.is_empty())
}
