//! Builds, each by its own client: `skep build` against `docker build` with dockerd's own builder, in turns.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::docker::{self, DockerLab};
use super::table::{Row, Target, timed};
use super::{Setup, go_on, hosts, peers};

/// Turns of each build; the first warms up and is not counted.
const TURNS: usize = 5;
/// Those of the large context.
const FEW: usize = 3;
/// Files of the large context, and directories they lie in.
const FILES: usize = 50_000;
const DIRECTORIES: usize = 500;

/// Twice as fast where all is made, five times where all is kept.
const COLD: Target = Target::RatioAtMost(0.5);
const CACHED: Target = Target::RatioAtMost(0.2);

/// A client against its daemon.
struct Side<'a> {
    cli: Box<dyn Fn() -> Command + 'a>,
}

pub fn run(setup: &Setup) -> Result<Vec<Row>> {
    let lab = hosts::lab(setup, 1)?;
    let docker = DockerLab::up(setup, 1)?;
    let host = lab.host(1);
    let image = peers::busybox()?;
    hosts::client(host).import(&image, "bb")?;
    let ours = Side { cli: Box::new(|| host.skep_command()) };
    let theirs = match &docker {
        Some(d) => {
            docker::client(d.lab.host(1)).import(&image, "bb")?;
            Some(Side {
                cli: Box::new(|| {
                    let mut command = d.command(d.lab.host(1));
                    command.env("DOCKER_BUILDKIT", "0");
                    command
                }),
            })
        }
        None => None,
    };
    let mut rows = Vec::new();
    for (what, context, turns, cold, cached) in [
        ("build of ten steps", ten_steps(&host.dir)?, TURNS, COLD, CACHED),
        ("build of two branches, 2 s of waiting each", two_branches(&host.dir)?, TURNS, COLD, CACHED),
        ("build with a context of 50,000 files", large(&host.dir)?, FEW, COLD, CACHED),
    ] {
        let [made, kept] = by_turns(&context, turns, &ours, theirs.as_ref())?;
        for (how, [mine, his], target) in [("nothing kept", made, cold), ("all kept", kept, cached)] {
            rows.push(Row::new(format!("{what}, {how}"), "ms", mine, target).beside("docker build", his));
        }
    }
    Ok(rows)
}

/// Milliseconds of builds in which all is made, and of builds in which all is kept; ours and theirs of each.
fn by_turns(
    context: &Path,
    turns: usize,
    ours: &Side<'_>,
    theirs: Option<&Side<'_>>,
) -> Result<[[Vec<f64>; 2]; 2]> {
    let mut all: [[Vec<f64>; 2]; 2] = Default::default();
    for turn in 0..=turns {
        for (which, side) in [Some(ours), theirs].into_iter().enumerate() {
            let Some(side) = side else { continue };
            for (how, flag) in [Some("--no-cache"), None].into_iter().enumerate() {
                let time = build(side, flag, context)?;
                println!("{}: {time:.0} ms", context.display());
                if turn > 0 {
                    all[how][which].push(time);
                }
                go_on()?;
            }
        }
    }
    Ok(all)
}

fn build(side: &Side<'_>, flag: Option<&str>, context: &Path) -> Result<f64> {
    let mut command = (side.cli)();
    command.args(["build", "-t", "built"]).args(flag).arg(context).stdin(Stdio::null());
    timed(|| {
        let output = command.output().with_context(|| format!("run {command:?}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let failed = || format!("{command:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}", failed());
        ensure!(said.contains("Using cache") == flag.is_none(), "{}", failed());
        Ok(())
    })
}

fn context(dir: &Path, name: &str, dockerfile: &str) -> Result<PathBuf> {
    let context = dir.join(name);
    std::fs::create_dir_all(&context).with_context(|| format!("make {}", context.display()))?;
    std::fs::write(context.join("Dockerfile"), dockerfile)?;
    Ok(context)
}

/// Six commands and four copies, each of which changes something.
fn ten_steps(dir: &Path) -> Result<PathBuf> {
    let mut text = String::from("FROM bb\n");
    for n in 0..10 {
        // Writing to a String cannot fail.
        let _ = match n % 5 {
            1 | 3 => writeln!(text, "COPY f{n} /copied/"),
            _ => writeln!(text, "RUN echo {n} > /made-{n}"),
        };
    }
    let context = context(dir, "ten", &text)?;
    for n in 0..10 {
        std::fs::write(context.join(format!("f{n}")), vec![b'x'; 10_000])?;
    }
    Ok(context)
}

fn two_branches(dir: &Path) -> Result<PathBuf> {
    let mut text = String::new();
    for branch in ["a", "b"] {
        let _ = write!(
            text,
            "FROM bb AS {branch}\nRUN echo {branch} > /1\nRUN sleep 2 && echo {branch} > /2\nRUN echo {branch} > /3\n"
        );
    }
    text.push_str("FROM bb\nCOPY --from=a /3 /a\nCOPY --from=b /3 /b\n");
    context(dir, "branches", &text)
}

fn large(dir: &Path) -> Result<PathBuf> {
    let context = context(dir, "large", "FROM bb\nCOPY src /src\nRUN echo done > /done\n")?;
    for d in 0..DIRECTORIES {
        let sub = context.join(format!("src/package-{d}/lib"));
        std::fs::create_dir_all(&sub)?;
        for n in 0..FILES / DIRECTORIES {
            std::fs::write(
                sub.join(format!("module-{n}.js")),
                format!("export default {};\n", d * 1000 + n),
            )?;
        }
    }
    Ok(context)
}
