//! Secrets of builds: once the step that asked for one has ended, nothing has it.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use skep_e2e::swarm::path;

use crate::builder;

const SECRET: &str = "s3cret-words-of-a-build";

/// The files below a directory that have a secret.
pub fn holding(dir: &Path, secret: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    add_holding(dir, secret, &mut found)?;
    Ok(found)
}

fn add_holding(dir: &Path, secret: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            add_holding(&entry.path(), secret, found)?;
        } else if kind.is_file() {
            // Namespaces are files that nobody reads.
            let Ok(content) = fs::read(entry.path()) else { continue };
            if content.windows(secret.len()).any(|w| w == secret.as_bytes()) {
                found.push(entry.path().display().to_string());
            }
        }
    }
    Ok(())
}

#[test]
fn what_a_failed_step_leaves_knows_no_secret() -> Result<()> {
    let (lab, context) = builder("bx")?;
    let host = lab.host(1);
    // It is nowhere but in this process' environment.
    let build = |text: &str| -> Result<(bool, String)> {
        fs::write(context.join("Dockerfile"), text)?;
        let mut command = host.skep_command();
        command.args(["build", "--secret", "id=word,env=GIVEN", "--no-cache", "-t", "told"]).arg(&context);
        command.env("GIVEN", SECRET);
        crate::run(command)
    };
    let mounts = "--mount=type=secret,id=word,env=WORD --mount=type=secret,id=word,target=/word";
    let (ok, said) = build(&format!(
        "FROM bb\nENV WORD=other\nRUN {mounts} test $WORD = $(cat /word) && echo ${{#WORD}}\n"
    ))?;
    ensure!(ok && said.contains(&SECRET.len().to_string()), "{said}");
    let (ok, failed) = build(&format!("FROM bb\nRUN {mounts} test -z $WORD\n"))?;
    ensure!(!ok, "{failed}");
    // The step's container is there to be looked at.
    let left = host.docker(&["ps", "-aq"])?;
    let told = host.docker(&["inspect", left.trim()])?;
    ensure!(told.contains("WORD") && !told.contains(SECRET), "{told}");
    let archive = host.dir.join("told.tar");
    host.docker(&["save", "-o", path(&archive), "told"])?;
    let found = holding(&host.dir, SECRET)?;
    ensure!(found.is_empty(), "it is in {found:?}");
    ensure!(!said.contains(SECRET) && !failed.contains(SECRET), "{said}{failed}");
    lab.down()
}

#[test]
fn a_secrets_file_has_the_owner_and_the_mode_that_were_asked_for() -> Result<()> {
    let (lab, context) = builder("bo")?;
    let host = lab.host(1);
    let stat = "busybox stat -c '%a %u:%g'";
    fs::write(
        context.join("Dockerfile"),
        format!(
            "FROM bb\nRUN --mount=type=secret,id=word {stat} /run/secrets/word\n\
             RUN --mount=type=secret,id=word,target=/word,uid=7,gid=8,mode=0640 {stat} /word\n\
             USER 7:9\nRUN --mount=type=secret,id=word test ! -r /run/secrets/word\n\
             RUN --mount=type=secret,id=word,uid=7 cat /run/secrets/word && echo\n\
             USER 9:8\nRUN --mount=type=secret,id=word,gid=8,mode=0440 cat /run/secrets/word && echo\n"
        ),
    )?;
    let mut command = host.skep_command();
    command.args(["build", "--secret", "id=word,env=GIVEN"]).arg(&context).env("GIVEN", SECRET);
    let (ok, said) = crate::run(command)?;
    let count = |words: &str| said.lines().filter(|line| *line == words).count();
    ensure!(ok && count("400 0:0") == 1 && count("640 7:8") == 1 && count(SECRET) == 2, "{said}");
    lab.down()
}
