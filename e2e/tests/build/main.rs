//! Builds with the real `docker` client: a corpus of Dockerfiles, one behaviour each; the cache; secrets; what is kept
//! and pruned; what `skep build` and `docker build` have in common.

mod agents;
mod cache_from;
mod cases;
mod contexts;
mod entitlements;
mod errors;
mod failed;
mod fetched;
mod image;
mod kept;
mod layers;
mod limits;
mod mount_caches;
mod platforms;
mod projects;
mod pulled;
mod repositories;
mod secrets;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::swarm::{path, plain};
use skep_e2e::{Host, Lab, busybox_image, eventually};

use cases::{Case, Expected};
use image::Image;

const APPLETS: &[&str] = &[
    "sh", "echo", "cat", "ls", "id", "touch", "mkdir", "pwd", "ln", "chown", "test", "env", "sleep", "false",
    "true",
];

/// A host with busybox as the image `bb`, and an empty directory to build from.
fn builder(name: &str) -> Result<(Lab, PathBuf)> {
    let lab = plain(name, 1)?;
    let host = lab.host(1);
    let (archive, context) = (host.dir.join("busybox.tar"), host.dir.join("context"));
    busybox_image(APPLETS, &archive)?;
    host.docker(&["import", "-c", r#"CMD ["sh"]"#, path(&archive), "bb"])?;
    fs::create_dir_all(&context)?;
    Ok((lab, context))
}

/// What a build said and how it ended.
fn run(mut command: Command) -> Result<(bool, String)> {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    Ok((status.success(), said))
}

fn docker_build(host: &Host, flags: &[&str], context: &Path) -> Command {
    let mut command = host.docker_command();
    command.arg("build").args(flags).arg(context);
    command
}

#[test]
fn dockerfiles_make_what_they_say() -> Result<()> {
    let (lab, context) = builder("bc")?;
    let host = lab.host(1);
    fs::write(context.join("Dockerfile"), "FROM bb\nONBUILD COPY a /triggered\n")?;
    let (ok, said) = run(docker_build(host, &["-t", "trigger"], &context))?;
    ensure!(ok, "{said}");
    let cases = cases::read(include_str!("corpus.txt"))?;
    ensure!(cases.len() >= 60, "the corpus has {} cases", cases.len());
    let base =
        host.docker(&["image", "inspect", "-f", "{{len .RootFS.Layers}}", "bb"])?.trim().parse::<usize>()?;
    all(host, &cases, |n, case| check(host, &format!("case:{n}"), case, base))?;
    ensure!(host.docker(&["ps", "-aq"])?.trim().is_empty(), "no build leaves a container");
    lab.down()
}

/// Has all cases checked, two at a time; says which failed.
fn all(host: &Host, cases: &[Case], check: impl Fn(usize, &Case) -> Result<()> + Sync) -> Result<()> {
    let (failures, queue) = (Mutex::new(Vec::new()), Mutex::new(cases.iter().enumerate()));
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let next = queue.lock().expect("not poisoned").next();
                    let Some((n, case)) = next else { break };
                    if let Err(e) = check(n, case) {
                        failures.lock().expect("not poisoned").push(format!("{}: {e:#}", case.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().expect("not poisoned");
    eprintln!("{}/{} Dockerfiles on {}", cases.len() - failures.len(), cases.len(), host.name);
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// Builds a case with `docker`, and looks at what comes of it.
fn check(host: &Host, tag: &str, case: &Case, base: usize) -> Result<()> {
    let context = host.dir.join(tag.replace([':', '/'], "-"));
    case.write(&context)?;
    let mut flags: Vec<&str> = vec!["--force-rm", "-t", tag];
    flags.extend(case.flags.iter().map(String::as_str));
    let (ok, said) = run(docker_build(host, &flags, &context))?;
    let fails = case.expected.iter().any(|e| matches!(e, Expected::Fails(_)));
    ensure!(ok != fails, "it {}:\n{said}", if ok { "succeeded" } else { "failed" });
    let image = if ok { Some(Image::read(host, tag, &case.look)?) } else { None };
    for expected in &case.expected {
        expected
            .check(host, image.as_ref(), &said, base)
            .with_context(|| format!("{expected:?}; it said:\n{said}"))?;
    }
    Ok(())
}

/// Lines that say that a step was taken from an earlier build.
fn cached(said: &str) -> usize {
    said.lines().filter(|l| l.trim() == "---> Using cache").count()
}

#[test]
fn what_was_built_is_kept_by_its_content_until_it_is_pruned() -> Result<()> {
    let (lab, context) = builder("bk")?;
    let host = lab.host(1);
    fs::write(context.join("a"), "1")?;
    fs::write(context.join("b"), "1")?;
    fs::write(
        context.join("Dockerfile"),
        "FROM bb\nRUN echo x > /x\nCOPY a /a\nRUN cat /a > /y\nCOPY b /b\n",
    )?;
    let build = |flags: &[&str]| run(docker_build(host, flags, &context));
    let (ok, first) = build(&["-t", "kept"])?;
    ensure!(ok && cached(&first) == 0, "{first}");
    let id = host.docker(&["images", "-q", "--no-trunc", "kept"])?;
    // Another time of a file is no other content.
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(60);
    fs::File::options().write(true).open(context.join("a"))?.set_modified(later)?;
    let (_, second) = build(&["-t", "kept"])?;
    ensure!(cached(&second) == 4, "{second}");
    ensure!(host.docker(&["images", "-q", "--no-trunc", "kept"])? == id, "the same image");
    // What comes after a change is made anew, what comes before is not.
    fs::write(context.join("a"), "2")?;
    let (_, third) = build(&["-t", "kept"])?;
    ensure!(cached(&third) == 1, "{third}");
    let (_, none) = build(&["--no-cache", "-t", "kept"])?;
    ensure!(cached(&none) == 0, "{none}");
    // A daemon that starts again still has it.
    host.stop_daemon("-TERM")?;
    host.start_daemon()?;
    let (_, again) = build(&["-t", "kept"])?;
    ensure!(cached(&again) == 4, "{again}");
    let used = host.docker(&["system", "df", "--format", "{{.Type}} {{.TotalCount}}"])?;
    ensure!(used.lines().any(|l| l.starts_with("Build Cache") && !l.ends_with(" 0")), "{used}");
    // What is kept is no image of the user's, and goes when it is told to; the image stays.
    ensure!(
        host.docker(&["images", "-q"])?.lines().count() <= 4,
        "only images that were asked for are listed"
    );
    let pruned = host.docker(&["builder", "prune", "-af"])?;
    ensure!(pruned.contains("Total reclaimed space"), "{pruned}");
    host.docker(&["run", "--rm", "kept", "cat", "/y"])?;
    let (_, empty) = build(&["-t", "kept"])?;
    ensure!(cached(&empty) == 0, "{empty}");
    lab.down()
}

#[test]
fn what_a_build_leaves_behind_is_what_was_asked_for() -> Result<()> {
    let (lab, context) = builder("bl")?;
    let host = lab.host(1);
    let build = |flags: &[&str], text: &str| {
        fs::write(context.join("Dockerfile"), text)?;
        run(docker_build(host, flags, &context))
    };
    // Caches of mounts are kept, and go with all else that is kept.
    let counts = "FROM bb\nRUN --mount=type=cache,target=/c echo 1 >> /c/f && cat /c/f\n";
    for ones in [1, 2] {
        let (_, said) = build(&["--no-cache"], counts)?;
        ensure!(said.lines().filter(|l| *l == "1").count() == ones, "{said}");
    }
    host.docker(&["builder", "prune", "-af"])?;
    let (_, said) = build(&["--no-cache"], counts)?;
    ensure!(said.lines().filter(|l| *l == "1").count() == 1, "{said}");
    // The container of a step that failed is the user's, over a restart too; unless it is to go.
    let containers = || host.docker(&["ps", "-aq"]).map(|c| c.lines().count());
    build(&["--force-rm"], "FROM bb\nRUN false\n")?;
    ensure!(containers()? == 0, "it is to go");
    build(&[], "FROM bb\nRUN false\n")?;
    ensure!(containers()? == 1, "it is to be looked at");
    host.docker(&["create", "--label", "skep.build=mine", "bb"])?;
    // What a crash leaves of a step is nobody's.
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN sleep 1000\n")?;
    let mut cut = docker_build(host, &[], &context).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("the step runs", Duration::from_secs(60), || {
        ensure!(host.docker(&["ps", "-q"])?.lines().count() == 1, "nothing runs");
        Ok(())
    })?;
    host.stop_daemon("-9")?;
    cut.wait()?;
    host.start_daemon()?;
    ensure!(containers()? == 2, "{}", host.docker(&["ps", "-a"])?);
    let (ok, said) = build(&[], "FROM bb\nRUN true\n")?;
    ensure!(ok, "{said}");
    // Who leaves a build ends it.
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN sleep 1001\n")?;
    let mut left = docker_build(host, &[], &context).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("the step runs", Duration::from_secs(60), || {
        ensure!(host.docker(&["ps", "-q"])?.lines().count() == 1, "nothing runs");
        Ok(())
    })?;
    left.kill()?;
    left.wait()?;
    eventually("the step is gone", Duration::from_secs(60), || {
        ensure!(containers()? == 2, "it is there");
        Ok(())
    })?;
    lab.down()
}

#[test]
fn the_same_input_gives_the_same_image_and_secrets_are_in_none_of_it() -> Result<()> {
    let (lab, context) = builder("br")?;
    let host = lab.host(1);
    fs::write(context.join("a"), "1")?;
    fs::write(host.dir.join("secret"), "s3cret-words")?;
    let text = "FROM bb\nRUN --mount=type=secret,id=word cat /run/secrets/word > /dev/null && echo made > /x\n\
                RUN --mount=type=secret,id=word,env=WORD test ${#WORD} = 12\nCOPY a /a\n";
    fs::write(context.join("Dockerfile"), text)?;
    let secret = format!("id=word,src={}", host.dir.join("secret").display());
    let build = |tag: &str, args: &[&str], env: &str| {
        let mut command = host.skep_command();
        command.env("SOURCE_DATE_EPOCH", env).args(["build", "--no-cache", "--secret", &secret, "-t", tag]);
        command.args(args).arg(&context);
        let (ok, said) = run(command)?;
        ensure!(ok && !said.contains("not consumed"), "{said}");
        Ok(said)
    };
    // The environment gives the time where no flag does; when the files were written is not told.
    let said = build("one", &["--build-arg", "SOURCE_DATE_EPOCH=1000000000"], "1")?;
    fs::write(context.join("a"), "1")?;
    build("two", &[], "1000000000")?;
    let id = |tag: &str| host.docker(&["image", "inspect", "-f", "{{.Id}} {{.Created}}", tag]);
    ensure!(id("one")? == id("two")?, "{} and {}", id("one")?, id("two")?);
    ensure!(id("one")?.contains("2001-09-09T01:46:40Z"), "{}", id("one")?);
    let archive = host.dir.join("saved.tar");
    host.docker(&["save", "-o", path(&archive), "one"])?;
    let bytes = fs::read(&archive)?;
    ensure!(!bytes.windows(12).any(|w| w == b"s3cret-words"), "the secret is in the image");
    ensure!(!said.contains("s3cret-words"), "the secret is in the output");
    ensure!(!host.log_tail().contains("s3cret-words"), "the secret is in the log");
    lab.down()
}

#[test]
fn what_add_fetches_is_checked_and_kept_by_its_content() -> Result<()> {
    let (lab, context) = builder("ba")?;
    let host = lab.host(1);
    let served = host.dir.join("served");
    fs::create_dir_all(&served)?;
    fs::write(served.join("f.txt"), "fetched")?;
    let mut server = host.command("busybox")?;
    server.args(["httpd", "-f", "-p", "127.0.0.1:8000", "-h", path(&served)]);
    let mut server = server.spawn()?;
    eventually("the server answers", Duration::from_secs(60), || {
        host.exec(&["busybox", "wget", "-qO", "/dev/null", "http://127.0.0.1:8000/f.txt"]).map(drop)
    })?;
    let sum = "sha256:f65af1f2ba35d6d3ac40b57ea5cb4a2b0acb4ed91f0d3a3cb2d1a9c5ba4ad2a6";
    let build = |line: &str| {
        fs::write(context.join("Dockerfile"), format!("FROM bb\n{line}\n"))?;
        run(docker_build(host, &["-t", "fetched"], &context))
    };
    let (ok, said) = build("ADD http://127.0.0.1:8000/f.txt /to/")?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "fetched", &[])?;
    let file = image.file("/to/f.txt")?;
    ensure!((file.content.as_slice(), file.mode) == (&b"fetched"[..], 0o600), "{file:?}");
    let (_, again) = build("ADD http://127.0.0.1:8000/f.txt /to/")?;
    ensure!(cached(&again) == 1, "{again}");
    fs::write(served.join("f.txt"), "changed")?;
    let (_, changed) = build("ADD http://127.0.0.1:8000/f.txt /to/")?;
    ensure!(cached(&changed) == 0, "{changed}");
    let (ok, said) = build(&format!("ADD --checksum={sum} http://127.0.0.1:8000/f.txt /x"))?;
    ensure!(!ok && said.contains("digest mismatch"), "{said}");
    // Of "changed", by sha256sum(1).
    let sum = host.exec(&["sha256sum", path(&served.join("f.txt"))])?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let (ok, said) = build(&format!("ADD --checksum=sha256:{sum} http://127.0.0.1:8000/f.txt /x"))?;
    ensure!(ok, "{said}");
    ensure!(Image::read(host, "fetched", &[])?.file("/x")?.content == b"changed");
    let (ok, said) = build("ADD http://127.0.0.1:8000/none /x")?;
    ensure!(!ok && said.contains("404"), "{said}");
    let (ok, said) = build("ADD http://127.0.0.1:8000/ /x/")?;
    ensure!(!ok && said.contains("cannot determine filename"), "{said}");
    // The destination names the file where the URL does not; two URLs may end in the same name.
    for (name, text) in [("index.html", "index"), ("a [1]", "one"), ("v1/same", "v1"), ("v2/same", "v2")] {
        let path = served.join(name);
        fs::create_dir_all(path.parent().context("a directory")?)?;
        fs::write(path, text)?;
    }
    let [page, odd, one, two] =
        ["", "a%20[1]", "v1/same", "v2/same"].map(|u| format!("http://127.0.0.1:8000/{u}"));
    let (ok, said) = build(&format!("ADD {page} /page\nADD {odd} /d/\nADD {one} {two} /d/"))?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "fetched", &[])?;
    for (path, text) in [("/page", "index"), ("/d/a [1]", "one"), ("/d/same", "v2")] {
        let file = image.file(path)?;
        ensure!(file.content == text.as_bytes(), "{path}: {file:?}");
    }
    server.kill()?;
    server.wait()?;
    lab.down()
}

#[test]
fn docker_and_skep_build_alike() -> Result<()> {
    let (lab, context) = builder("bd")?;
    let host = lab.host(1);
    fs::create_dir_all(context.join("sub"))?;
    fs::write(context.join("sub/Other"), "FROM bb\nARG A\nRUN echo \"$A\" > /a\nLABEL x=y\n")?;
    let ids = host.dir.join("iid");
    let flags = ["build", "-f", "sub/Other", "--build-arg", "A=1", "--iidfile", path(&ids), "-t", "alike"];
    // Docker's client wants the file's path from where it stands.
    let absolute = context.join("sub/Other");
    let for_docker =
        ["build", "-f", path(&absolute), "--build-arg", "A=1", "--iidfile", path(&ids), "-t", "alike"];
    host.docker(&[&for_docker[..], &[path(&context)]].concat())?;
    let theirs = fs::read_to_string(&ids)?;
    host.skep(&[&flags[..], &[path(&context)]].concat())?;
    ensure!(fs::read_to_string(&ids)? == theirs, "the same image");
    let quiet = [&["build", "-q", "-f", "sub/Other", "--build-arg", "A=1"][..], &[path(&context)]].concat();
    ensure!(host.skep(&quiet)?.trim() == theirs.trim(), "quiet is the ID");
    // A Dockerfile from elsewhere is in no image, by whatever name it was sent.
    let elsewhere = host.dir.join("elsewhere");
    fs::write(&elsewhere, "FROM bb\nCOPY . /c\n")?;
    let build = ["build", "-f", path(&elsewhere), "-t", "elsewhere", path(&context)];
    for client in [Host::docker, Host::skep] {
        client(host, &build)?;
        let found = Image::read(host, "elsewhere", &["/c".to_owned()])?.tree("/c");
        ensure!(found == ["sub/Other"], "{found:?}");
    }
    // The exit code is the command's.
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN exit 7\n")?;
    for mut command in [host.docker_command(), host.skep_command()] {
        let output = command.arg("build").arg(&context).stdin(Stdio::null()).output()?;
        ensure!(output.status.code() == Some(7), "{command:?}: {output:?}");
    }
    // What is of another platform is not given, told of, or taken away.
    for command in [&["image", "inspect"][..], &["history"], &["image", "rm"]] {
        let other = [command, &["--platform", "linux/s390x", "alike"]].concat();
        let output = host.docker_command().args(&other).output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            !output.status.success() && words.contains("does not provide the specified platform"),
            "{words}"
        );
    }
    host.docker(&["image", "inspect", "alike"])?;
    host.docker(&["system", "prune", "-f", "--filter", "label=none"])?;
    // A Dockerfile alone, and a context that is wrong.
    let mut command = host.skep_command();
    let mut child = command.args(["build", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("a pipe")?, b"FROM bb\nRUN true\n")?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{output:?}");
    let bad = host.request("POST", "/build?dockerfile=x", "this is no archive")?;
    ensure!(bad.status == 400 && bad.body.contains("build context"), "{} {}", bad.status, bad.body);
    let unknown = host.request("POST", "/build?isolation=hyperv", "")?;
    ensure!(
        unknown.status == 400 && unknown.body.contains("isolation"),
        "{} {}",
        unknown.status,
        unknown.body
    );
    lab.down()
}
