//! Where builds take files from beside what is sent: repositories, URLs, archives; what files become on the way, and what
//! is said of those that are missing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skep_e2e::swarm::path;
use skep_e2e::{Host, eventually};

use crate::image::Image;
use crate::{builder, cached, docker_build, run};

/// `f` with "from the archive", as tar -cJf and tar -cjf make it.
const XZ: &str = "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4Cf/AGldADMAM1AYaImDAdzibiD+BBtGgcTng0DwCPGd5h56lfonC+rtmvXWNAu7Wis6BOTJDNY+gFMC0OCSGVUjv0zggL4By2AJuR8hbqb90PiRKZ5BVHmNQEgDHjmBUBDmcykSw+ePljiDI71qAAAAAAAY9LXHTxe6BgABhQGAUAAAjeCtMbHEZ/sCAAAAAARZWg==";
const BZIP2: &str = "QlpoOTFBWSZTWT37lRoAAHN7hMqAEEBAAFeAAADrYp8AAACACCAAVDKI2kNNBkGTNQSU1GjTRkDQAfd0i1SEFHgJE5wLYueSckgYHDdNDmvKxIzQhu8JRY6aNHGkb06VK42eWD4UhVXBdrq8kgfi7kinChIHv3KjQA==";

/// A server of a host, which ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn git(dir: &Path, args: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=n", "-c", "user.email=e", "-c", "init.defaultBranch=main"]).args(args);
    let output = git.current_dir(dir).output().context("run git")?;
    ensure!(output.status.success(), "git {args:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A repository of two commits, the first of which is tagged, and a server of it.
fn repository(host: &Host) -> Result<(Server, [String; 2])> {
    let dir = host.dir.join("git/repo");
    fs::create_dir_all(dir.join("sub"))?;
    git(&dir, &["init", "-q"])?;
    let mut commits = [String::new(), String::new()];
    for (n, text) in ["one", "two"].iter().enumerate() {
        fs::write(dir.join("a"), text)?;
        fs::write(dir.join("sub/b"), text)?;
        fs::write(dir.join("sub/left-out"), text)?;
        fs::write(dir.join("sub/.dockerignore"), "left-*\n")?;
        fs::write(dir.join("sub/Dockerfile"), "FROM bb\nCOPY . /got/\n")?;
        git(&dir, &["add", "."])?;
        git(&dir, &["commit", "-q", "-m", text])?;
        if n == 0 {
            git(&dir, &["tag", "v1"])?;
        }
        commits[n] = git(&dir, &["rev-parse", "HEAD"])?;
    }
    let mut server = host.command("git")?;
    server.args(["daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1"]);
    server.arg(format!("--base-path={}", host.dir.join("git").display()));
    let server = Server(server.spawn()?);
    eventually("the repository is served", Duration::from_secs(60), || {
        host.exec(&["git", "ls-remote", "git://127.0.0.1/repo"]).map(drop)
    })?;
    Ok((server, commits))
}

#[test]
fn repositories_are_sources_and_contexts() -> Result<()> {
    let (lab, context) = builder("bg")?;
    let host = lab.host(1);
    let (_server, [first, second]) = repository(host)?;
    let build = |line: &str| {
        fs::write(context.join("Dockerfile"), format!("FROM bb\n{line}\n"))?;
        run(docker_build(host, &["-t", "got"], &context))
    };
    let content = |file: &str| -> Result<String> {
        Ok(String::from_utf8(Image::read(host, "got", &[])?.file(file)?.content.clone())?)
    };
    let (ok, said) = build("ADD git://127.0.0.1/repo /r/")?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "got", &[])?;
    ensure!(image.file("/r/a")?.content == b"two" && image.file("/r/.git").is_err(), "{image:?}");
    let (_, again) = build("ADD git://127.0.0.1/repo /r/")?;
    ensure!(cached(&again) == 1, "{again}");
    for (line, file, text) in [
        ("ADD git://127.0.0.1/repo#v1 /r/".to_owned(), "/r/a", "one"),
        ("ADD git://127.0.0.1/repo#main:sub /r/".to_owned(), "/r/b", "two"),
        (format!("ADD --checksum={first} git://127.0.0.1/repo#{first} /r/"), "/r/sub/b", "one"),
        (format!("ADD --checksum={} git://127.0.0.1/repo#{first} /r/", &first[..3]), "/r/sub/b", "one"),
        ("ADD --keep-git-dir=true --chmod=u=rwX,go= git://127.0.0.1/repo#v1 /r/".to_owned(), "/r/a", "one"),
    ] {
        let (ok, said) = build(&line)?;
        ensure!(ok, "{line}: {said}");
        ensure!(content(file)? == text, "{line}");
    }
    let image = Image::read(host, "got", &[])?;
    image.file("/r/.git/HEAD")?;
    ensure!(image.file("/r/a")?.mode == 0o600 && image.file("/r/sub")?.mode == 0o700, "{image:?}");
    for (line, words) in [
        (format!("ADD --checksum={first} git://127.0.0.1/repo /r/"), format!("its commit is {second}")),
        ("ADD git://127.0.0.1/repo#none /r/".into(), "cannot fetch the repository".into()),
        ("ADD git://127.0.0.1/repo#v1:none /r/".into(), "it has no directory none".into()),
        ("ADD git://127.0.0.1/repo#v1:../../.. /r/".into(), String::new()),
        ("ADD git://127.0.0.1/repo#--upload-pack=x /r/".into(), "is no reference".into()),
        ("ADD --keep-git-dir=true Dockerfile /r/".into(), "--keep-git-dir is for repositories".into()),
    ] {
        let (ok, said) = build(&line)?;
        ensure!(ok == words.is_empty() && said.contains(&words), "{line}: {said}");
    }
    // As a context, which the daemon fetches.
    host.skep(&["build", "-t", "got", "git://127.0.0.1/repo#v1:sub"])?;
    ensure!(content("/got/b")? == "one" && content("/got/left-out").is_err(), "what is ignored is left out");
    let answer = host.request("POST", "/build?remote=git%3A%2F%2F127.0.0.1%2Frepo%23%3Asub&t=got", "")?;
    ensure!(answer.status == 200 && content("/got/b")? == "two", "{} {}", answer.status, answer.body);
    let answer = host.request(
        "POST",
        "/build?remote=git%3A%2F%2F127.0.0.1%2Frepo%23v1&dockerfile=sub%2FDockerfile&t=got",
        "",
    )?;
    ensure!(answer.status == 200 && content("/got/.git/HEAD").is_err(), "{} {}", answer.status, answer.body);
    let keep =
        ["build", "-t", "got", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", "-f", "sub/Dockerfile"];
    let said = host.skep(&[&keep[..], &["git://127.0.0.1/repo#v1"]].concat())?;
    ensure!(!content("/got/.git/HEAD")?.is_empty() && !said.contains("not consumed"), "{said}");
    let answer = host.request("POST", "/build?remote=ftp%3A%2F%2Fx", "")?;
    ensure!(
        answer.status == 400 && answer.body.contains("neither a repository nor a URL"),
        "{}",
        answer.body
    );
    lab.down()
}

/// An archive of files with texts.
fn archive(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        tar.append_data(&mut header, name, text.as_bytes())?;
    }
    Ok(tar.into_inner()?)
}

#[test]
fn urls_are_contexts_and_archives_of_all_kinds_are_unpacked() -> Result<()> {
    let (lab, context) = builder("bu")?;
    let host = lab.host(1);
    let served = host.dir.join("served");
    fs::create_dir_all(&served)?;
    for dir in [&served, &context] {
        fs::write(dir.join("a.tar.xz"), STANDARD.decode(XZ)?)?;
        fs::write(dir.join("a.tar.bz2"), STANDARD.decode(BZIP2)?)?;
    }
    let text = "FROM bb\nADD a.tar.xz /x/\nADD a.tar.bz2 /b/\nCOPY a.tar.xz /as-it-is\n";
    fs::write(context.join("Dockerfile"), text)?;
    let (ok, said) = run(docker_build(host, &["-t", "unpacked"], &context))?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "unpacked", &[])?;
    for file in ["/x/f", "/b/f"] {
        ensure!(image.file(file)?.content == b"from the archive", "{file}");
    }
    image.file("/as-it-is")?;
    // One that is damaged where it begins is no archive, and so a file as any other.
    let mut damaged = STANDARD.decode(XZ)?;
    damaged[60] ^= 0xff;
    fs::write(context.join("a.tar.xz"), &damaged)?;
    for mut client in [host.docker_command(), host.skep_command()] {
        client.args(["build", "--no-cache", "-t", "damaged"]).arg(&context);
        let (ok, said) = run(client)?;
        ensure!(ok, "{said}");
        let image = Image::read(host, "damaged", &[])?;
        ensure!(
            image.tree("/x") == ["a.tar.xz"] && image.file("/x/a.tar.xz")?.content == damaged,
            "{image:?}"
        );
    }
    // One that ends too early is an archive, and named.
    let whole = archive(&[("f", "from an archive that ends here, or")])?;
    fs::write(context.join("a.tar.xz"), &whole[..520])?;
    for mut client in [host.docker_command(), host.skep_command()] {
        client.args(["build", "--no-cache"]).arg(&context);
        let (ok, said) = run(client)?;
        ensure!(!ok && said.contains("(step 2/4, Dockerfile:2)"), "{said}");
    }
    // From a server.
    let mut server = host.command("busybox")?;
    server.args(["httpd", "-f", "-p", "127.0.0.1:8000", "-h", path(&served)]);
    let _server = Server(server.spawn()?);
    fs::write(served.join("one.Dockerfile"), "FROM bb\nRUN echo alone > /alone\n")?;
    eventually("the server answers", Duration::from_secs(60), || {
        host.exec(&["busybox", "wget", "-qO", "/dev/null", "http://127.0.0.1:8000/one.Dockerfile"]).map(drop)
    })?;
    host.skep(&["build", "-t", "alone", "http://127.0.0.1:8000/one.Dockerfile"])?;
    Image::read(host, "alone", &[])?.file("/alone")?;
    let files = [
        ("Dockerfile", "FROM bb\nCOPY a /got\n"),
        ("a", "sent"),
        (".dockerignore", "Own\n"),
        ("Own", "FROM bb\nCOPY . /got/\n"),
        ("Own.dockerignore", "a\n*.dockerignore\n"),
        ("Wants", "FROM bb\nCOPY a /\n"),
        ("Wants.dockerignore", "*\n"),
    ];
    fs::write(served.join("context.tar"), archive(&files)?)?;
    host.skep(&["build", "-t", "sent", "http://127.0.0.1:8000/context.tar"])?;
    ensure!(Image::read(host, "sent", &[])?.file("/got")?.content == b"sent", "the context is unpacked");
    // A Dockerfile's own rules count, and no others.
    host.skep(&["build", "-t", "sent", "-f", "Own", "http://127.0.0.1:8000/context.tar"])?;
    let tree = Image::read(host, "sent", &[])?.tree("/got");
    ensure!(tree == ["Dockerfile", "Own", "Wants"], "{tree:?}");
    let output =
        host.skep_command().args(["build", "-f", "Wants", "http://127.0.0.1:8000/context.tar"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains("the pattern \"*\" of Wants.dockerignore leaves it out"), "{said}");
    // Rules that are none are named, of either file: what they were to keep out would be in the image.
    for (file, rules, words) in [
        ("Own.dockerignore", "# a\n[\n", "Own.dockerignore: line 2: "),
        (".dockerignore", "a\n!\n", ".dockerignore: line 2: illegal exclusion pattern"),
    ] {
        let files = [("Own", "FROM bb\nCOPY . /got/\n"), (file, rules), ("a", "a")];
        fs::write(served.join("wrong.tar"), archive(&files)?)?;
        let words = format!("cannot tell what to leave out of the build context: {words}");
        let mut client = host.skep_command();
        client.args(["build", "-f", "Own", "http://127.0.0.1:8000/wrong.tar"]);
        let (ok, said) = run(client)?;
        ensure!(!ok && said.contains(&words), "{said}");
        let far = "/build?dockerfile=Own&remote=http%3A%2F%2F127.0.0.1%3A8000%2Fwrong.tar";
        let answer = host.request("POST", far, "")?;
        ensure!(answer.body.contains(&words), "{} {}", answer.status, answer.body);
    }
    let output = host.skep_command().args(["build", "http://127.0.0.1:8000/none"]).output()?;
    ensure!(String::from_utf8_lossy(&output.stderr).contains("404"), "{output:?}");
    lab.down()
}

#[test]
fn contexts_beside_the_builds_own_are_known_by_their_names() -> Result<()> {
    let (lab, context) = builder("bx")?;
    let host = lab.host(1);
    let (_server, _) = repository(host)?;
    let other = host.dir.join("other");
    fs::create_dir_all(other.join("deep"))?;
    for (name, text) in
        [("f", "other"), ("deep/g", "deep"), ("skipped", "no"), (".dockerignore", "skipped\n"), ("h", "same")]
    {
        fs::write(other.join(name), text)?;
    }
    fs::write(context.join("f"), "own")?;
    fs::write(context.join("Dockerfile"), "FROM bb\nRUN echo base > /base\n")?;
    host.skep(&["build", "-t", "made", path(&context)])?;
    let beside = format!("files={}", path(&other));
    let build = |more: &[&str], text: &str| {
        fs::write(context.join("Dockerfile"), text)?;
        let mut command = host.skep_command();
        command.args(["build", "-t", "got", "--build-context", &beside]).args(more).arg(&context);
        run(command)
    };
    let text = "FROM other AS files\nRUN echo stage > /f\nFROM base\nCOPY --from=files . /all/\nCOPY . /own/\n\
                RUN --mount=from=files,target=/m cat /m/deep/g /base > /read\nCOPY --from=repo b /b\n";
    let flags = [
        "--build-context",
        "base=docker-image://made",
        "--build-context",
        "repo=git://127.0.0.1/repo#v1:sub",
    ];
    let (ok, said) = build(&flags, text)?;
    ensure!(ok, "{said}");
    let image = Image::read(host, "got", &[])?;
    ensure!(image.tree("/all") == [".dockerignore", "deep/g", "f", "h"], "{:?}", image.tree("/all"));
    ensure!(image.tree("/own") == ["Dockerfile", "f"], "nothing was sent into it: {:?}", image.tree("/own"));
    for (file, content) in
        [("/all/f", "other"), ("/own/f", "own"), ("/read", "deepbase\n"), ("/b", "one"), ("/base", "base\n")]
    {
        ensure!(image.file(file)?.content == content.as_bytes(), "{file}");
    }
    ensure!(image.file("/all/f")?.owner == "0:0", "what is of no image is root's");
    // Kept by its content, as all else; also where a link makes the archive one that has to be unpacked.
    let (_, again) = build(&flags, text)?;
    ensure!(cached(&again) == 4, "{again}");
    fs::hard_link(other.join("h"), other.join("i"))?;
    fs::hard_link(context.join("f"), context.join("k"))?;
    let (ok, said) = build(&flags, text)?;
    let image = Image::read(host, "got", &[])?;
    ensure!(ok && image.tree("/own") == ["Dockerfile", "f", "k"] && image.file("/all/i").is_ok(), "{said}");
    for (flags, text, words) in [
        (&["--build-context", "x=/none"][..], "FROM bb\n", "failed to get build context x"),
        (&["--build-context", "x"], "FROM bb\n", "expected key=value"),
        (&["--build-context", "x=ftp://l"], "FROM bb\n", "want a directory, docker-image://REFERENCE"),
        (
            &[],
            "FROM bb\nCOPY --from=files skipped /\n",
            "the pattern \"skipped\" of .dockerignore leaves it out",
        ),
        (
            &[],
            "FROM bb\nRUN --mount=from=files,source=skipped,target=/s true\n",
            "the pattern \"skipped\" of .dockerignore leaves it out",
        ),
        (
            &flags,
            "FROM bb\nCOPY --from=repo left-out /\n",
            "the pattern \"left-*\" of .dockerignore leaves it out",
        ),
        (&[], "FROM bb\nCOPY --from=files none /\n", "stat none: file does not exist (step 2/2"),
    ] {
        let (ok, said) = build(flags, text)?;
        ensure!(!ok && said.contains(words), "{flags:?} {text}: {said}");
    }
    // Rules that leave themselves out are in no image, and are named all the same.
    fs::write(other.join(".dockerignore"), "*\n!f\n")?;
    let (ok, said) = build(&[], "FROM bb\nCOPY --from=files . /all/\n")?;
    let tree = Image::read(host, "got", &[])?.tree("/all");
    ensure!(ok && tree == ["f"], "{tree:?}: {said}");
    let (ok, said) = build(&[], "FROM bb\nCOPY --from=files h /\n")?;
    ensure!(!ok && said.contains("the pattern \"*\" of .dockerignore leaves it out"), "{said}");
    lab.down()
}

#[test]
fn a_dockerfiles_own_rules_count_instead_of_the_contexts() -> Result<()> {
    let (lab, context) = builder("bi")?;
    let host = lab.host(1);
    let beside = host.dir.join("beside");
    for dir in [&beside, &context.join("sub")] {
        fs::create_dir_all(dir)?;
    }
    let text = "FROM bb\nCOPY . /all/\n";
    for (name, text) in [
        (".dockerignore", "*\n"),
        ("a", "a"),
        ("b", "b"),
        ("sub/Own", text),
        ("sub/Own.dockerignore", "b\n"),
        ("sub/None", text),
        ("sub/None.dockerignore", "sub\nb\n"),
        ("sub/Wants", "FROM bb\nCOPY b /\n"),
        ("sub/Wants.dockerignore", "# b\n[b]\n"),
        ("../beside/Far", text),
        ("../beside/Far.dockerignore", "sub\na\n"),
        ("../beside/Wants", "FROM bb\nCOPY a /\n"),
        ("../beside/Wants.dockerignore", "[a]\n"),
    ] {
        fs::write(context.join(name), text)?;
    }
    let build = |dockerfile: &Path| {
        let mut command = host.skep_command();
        command.args(["build", "-t", "got", "-f"]).arg(dockerfile).arg(&context);
        run(command)
    };
    let sub = |name: &str| format!("sub/{name}");
    let all =
        ["None", "None.dockerignore", "Own", "Own.dockerignore", "Wants", "Wants.dockerignore"].map(sub);
    let mut own = vec![".dockerignore".to_owned(), "a".to_owned()];
    own.extend(all);
    let few = |names: [&str; 2]| names.map(str::to_owned).to_vec();
    for (dockerfile, tree) in [
        // Neither the Dockerfile nor the context's `.dockerignore` goes by the latter's rules.
        (context.join("sub/Own"), own),
        // They go by its own: as what was sent only for the daemon to read it.
        (context.join("sub/None"), few([".dockerignore", "a"])),
        (beside.join("Far"), few([".dockerignore", "b"])),
    ] {
        let (ok, said) = build(&dockerfile)?;
        ensure!(ok, "{said}");
        let got = Image::read(host, "got", &[])?.tree("/all");
        ensure!(got == tree, "{}: {got:?}", dockerfile.display());
    }
    for (dockerfile, words) in [
        (context.join("sub/Wants"), "the pattern \"[b]\" of sub/Wants.dockerignore leaves it out"),
        (beside.join("Wants"), "the pattern \"[a]\" of .dockerfile.sent.dockerignore leaves it out"),
    ] {
        let (ok, said) = build(&dockerfile)?;
        ensure!(!ok && said.contains(words), "{said}");
    }
    // Docker's classic client knows the context's only, and so it is read of what that sends.
    let (ok, said) = run(docker_build(host, &["-f", path(&context.join("sub/Wants"))], &context))?;
    ensure!(!ok && said.contains("the pattern \"*\" of .dockerignore leaves it out"), "{said}");
    // Rules that are none are named before anything is sent.
    fs::write(context.join("sub/Own.dockerignore"), "[\n")?;
    let (ok, said) = build(&context.join("sub/Own"))?;
    ensure!(!ok && said.contains("sub/Own.dockerignore: line 1"), "{said}");
    lab.down()
}

#[test]
fn what_is_missing_is_named_with_the_reason() -> Result<()> {
    let (lab, context) = builder("bm")?;
    let host = lab.host(1);
    fs::write(context.join("x.log"), "x")?;
    fs::write(context.join(".dockerignore"), "# logs\n*.log\n")?;
    fs::write(host.dir.join("outside"), "x")?;
    std::os::unix::fs::symlink("../outside", context.join("up"))?;
    std::os::unix::fs::symlink("/etc/hostname", context.join("away"))?;
    for (line, words) in [
        ("COPY x.log /", "the pattern \"*.log\" of .dockerignore leaves it out"),
        (
            "RUN --mount=type=bind,source=x.log,target=/x true",
            "\"x.log\" of --mount=type=bind: no such file or directory (the pattern \"*.log\" of .dockerignore leaves it out) (step 2/2",
        ),
        ("COPY none /", "stat none: file does not exist (step 2/2, Dockerfile:2)"),
        ("COPY ../outside /", "forbidden path outside the build context: ../outside"),
        ("COPY up /", "up"),
        ("COPY away /", "away"),
        ("COPY --chmod=u+q Dockerfile /", "invalid chmod parameter: \"u+q\""),
    ] {
        fs::write(context.join("Dockerfile"), format!("FROM bb\n{line}\n"))?;
        for mut command in [docker_build(host, &[], &context), host.skep_command()] {
            if command.get_args().next().is_none() {
                command.arg("build").arg(&context);
            }
            let (ok, said) = run(command)?;
            ensure!(!ok && said.contains(words), "{line}: {said}");
        }
    }
    lab.down()
}
