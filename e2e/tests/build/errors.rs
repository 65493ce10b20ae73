//! What is said of builds that cannot be done: where in which file, and what is missing on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Result, ensure};
use skep_e2e::swarm::{binaries, path};
use skep_e2e::{Lab, LabOptions};

use crate::{builder, docker_build, run};

#[test]
fn a_syntax_error_has_its_file_line_and_column() -> Result<()> {
    let (lab, context) = builder("berr")?;
    let host = lab.host(1);
    fs::create_dir_all(context.join("sub"))?;
    for (text, place, words) in [
        ("FROM bb\n\n  RUNN true\n", "3:3", "unknown instruction: RUNN (did you mean RUN?)"),
        ("FROM bb\nRUN --nothing=1 true\n", "2:5", "nothing"),
        ("FROM bb\nCOPY a\n", "2:6", "COPY requires at least two arguments"),
        ("FROM bb\nRUN <<END\necho\n", "2:5", "unterminated heredoc"),
        ("FROM bb\nENV \\\n  a\n", "3:3", "ENV must have two arguments"),
        (
            "FROM bb\nRUN true\nCOPY --chown=${ a b\n",
            "3:6",
            "bad substitution: ${ wants the name of a variable",
        ),
        ("FROM bb\nRUN true\nCOPY [\"a\", \"/${A\"]\n", "3:12", "missing '}' after ${A"),
        ("FROM bb\nRUN true\nCOPY <<-END /a\n\tx\n\ty ${A^}\n\tEND\n", "5:4", "unsupported modifier (^)"),
        ("FROM bb AS a\nRUN true\nFROM  ${NONE}\n", "3:7", "base name (${NONE}) should not be blank"),
    ] {
        for file in ["Dockerfile", "sub/other.Dockerfile"] {
            fs::write(context.join(file), text)?;
            let whole = context.join(file);
            let docker = docker_build(host, &["-f", path(&whole)], &context);
            let mut skep = host.skep_command();
            skep.args(["build", "-f", path(&whole)]).arg(&context);
            for command in [docker, skep] {
                let (ok, said) = run(command)?;
                let wanted = format!("({file}:{place})");
                ensure!(!ok && said.contains(&wanted) && said.contains(words), "{wanted} {words}: {said}");
                ensure!(!said.contains("Step "), "it is told before anything is done: {said}");
            }
        }
    }
    lab.down()
}

#[test]
fn a_host_without_git_says_so() -> Result<()> {
    let (skep, init) = binaries()?;
    // Whatever is called finds nothing.
    let dir = tempfile::tempdir()?;
    let without = dir.path().join("skep");
    fs::write(&without, format!("#!/bin/sh\nPATH=/nowhere exec {} \"$@\"\n", skep.display()))?;
    fs::set_permissions(&without, fs::Permissions::from_mode(0o755))?;
    let name = format!("bnogit{}", std::process::id() % 10_000);
    let lab = Lab::up(LabOptions { name, hosts: 1, skep: without, init })?;
    let host = lab.host(1);
    let context = host.dir.join("context");
    fs::create_dir_all(&context)?;
    fs::write(context.join("Dockerfile"), "FROM scratch\nADD https://127.0.0.1/r.git /r/\n")?;
    let mut fetched = host.skep_command();
    fetched.args(["build", "https://127.0.0.1/r.git"]);
    for command in [docker_build(host, &[], &context), fetched] {
        let (ok, said) = run(command)?;
        let words =
            "cannot fetch the repository https://127.0.0.1/r.git: git is not installed on the daemon's host";
        ensure!(!ok && said.contains(words), "{said}");
    }
    lab.down()
}
