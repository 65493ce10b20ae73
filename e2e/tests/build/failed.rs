//! `skep build --debug`: a shell in the state that a failed step left.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::{Terminal, eventually};

use crate::builder;

#[test]
fn the_state_of_a_failed_step_can_be_looked_at() -> Result<()> {
    let (lab, context) = builder("bs")?;
    let host = lab.host(1);
    fs::write(host.dir.join("secret"), "s3cret-words")?;
    let secret = format!("id=word,src={}", host.dir.join("secret").display());
    let text = "FROM bb\nARG WHAT=thing\nWORKDIR /w\nRUN echo kept > before\n\
                RUN --mount=type=secret,id=word --mount=type=secret,id=word,env=WORD echo half > after && false\n";
    fs::write(context.join("Dockerfile"), text)?;
    let nothing_left = || {
        eventually("nothing is left", Duration::from_secs(60), || {
            let left = host.docker(&["ps", "-aq"])?;
            ensure!(left.trim().is_empty(), "{left}");
            Ok(())
        })
    };
    // At a terminal.
    let mut command = host.skep_command();
    command.args(["build", "--debug", "--secret", &secret]).arg(&context);
    let mut terminal = Terminal::start(command)?;
    terminal.until("Step 5/5 (Dockerfile:5) failed: RUN --mount=type=secret,id=word --mount=type=secret,id=word,env=WORD echo half > after && false: exited with 1")?;
    terminal.write(
        b"cat before after /run/secrets/word; echo $WORD $WHAT in $(pwd); test -t 0 && echo typed\n",
    )?;
    terminal.until("kept\r\nhalf\r\ns3cret-wordss3cret-words thing in /w\r\ntyped")?;
    terminal.write(b"exit\n")?;
    terminal.until("returned a non-zero code: 1")?;
    ensure!(terminal.wait()? == Some(1), "the code is the step's");
    nothing_left()?;
    // Without one, and of a step that is no command.
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN echo kept > /before\nCOPY missing /\n")?;
    let mut command = host.skep_command();
    command.args(["build", "--debug"]).arg(&context);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("a pipe")?.write_all(b"cat /before\n")?;
    let output = child.wait_with_output()?;
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(said.ends_with("kept\n") && !output.status.success(), "{output:?}");
    ensure!(
        errors.contains("(Dockerfile:3) failed: COPY missing /") && errors.contains("file not found"),
        "{errors}"
    );
    nothing_left()?;
    // A client that leaves ends the shell, and the build with it.
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN false\n")?;
    let mut command = host.skep_command();
    command.args(["build", "--debug"]).arg(&context);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("the shell runs", Duration::from_secs(60), || {
        ensure!(host.docker(&["ps", "-q"])?.lines().count() == 1, "nothing runs");
        Ok(())
    })?;
    child.kill()?;
    child.wait()?;
    nothing_left()?;
    // What has no shell is said to have none.
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\nCOPY missing /\n")?;
    let output =
        host.skep_command().args(["build", "--debug"]).arg(&context).stdin(Stdio::null()).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(errors.contains("the shell cannot be opened") && errors.contains("file not found"), "{errors}");
    nothing_left()?;
    let output = host.skep_command().args(["build", "--debug", "-"]).stdin(Stdio::null()).output()?;
    ensure!(
        String::from_utf8_lossy(&output.stderr).contains("--debug opens a shell on standard input"),
        "{output:?}"
    );
    lab.down()
}
