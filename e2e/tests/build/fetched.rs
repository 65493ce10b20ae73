//! What servers say of what `ADD` fetches, and what they are told of who fetches it: times of files, and secrets.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;
use skep_e2e::swarm::path;

use crate::sources::git;
use crate::{builder, cached, docker_build, run};

/// What a server answers to a path and its `Authorization`: status, further lines of the head, and the body.
type Answer = (&'static str, String, Vec<u8>);

/// Paths with the values of `Authorization` that they were asked with.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A server of HTTP on a port of a host, in this process; what it was asked.
fn serve(
    host: &Host,
    port: u16,
    answer: impl Fn(&str, &str) -> Answer + Send + Sync + 'static,
) -> Result<Asked> {
    let (listener, asked) = (host.listen(port)?, Asked::default());
    let (told, answer) = (asked.clone(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (told, answer) = (told.clone(), answer.clone());
            std::thread::spawn(move || -> Result<()> {
                let mut lines = BufReader::new(&stream).lines();
                let first = lines.next().context("a request")??;
                let target = first.split(' ').nth(1).context("a target")?.to_owned();
                let mut authorization = String::new();
                for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
                    if let Some((name, value)) = line.split_once(':')
                        && name.eq_ignore_ascii_case("authorization")
                    {
                        value.trim().clone_into(&mut authorization);
                    }
                }
                let (status, more, body) = answer(&target, &authorization);
                told.lock().expect("not poisoned").push((target, authorization));
                let head = format!(
                    "HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                (&stream).write_all(head.as_bytes())?;
                Ok((&stream).write_all(&body)?)
            });
        }
    });
    Ok(asked)
}

#[test]
fn files_have_the_times_that_servers_say_and_are_known_by_their_content() -> Result<()> {
    let (lab, context) = builder("bwhen")?;
    let host = lab.host(1);
    let said = Arc::new(Mutex::new("Sun, 09 Sep 2001 01:46:40 GMT".to_owned()));
    let says = said.clone();
    serve(host, 8000, move |path, _| {
        let date = match path {
            "/told" => format!("Last-Modified: {}\r\n", says.lock().expect("not poisoned")),
            "/odd" => "Last-Modified: the other day\r\n".to_owned(),
            "/early" => "Last-Modified: Sun, 09 Sep 1956 01:46:40 GMT\r\n".to_owned(),
            _ => String::new(),
        };
        ("200 OK", date, b"fetched".to_vec())
    })?;
    let times = "FROM bb\nADD http://127.0.0.1:8000/told http://127.0.0.1:8000/odd http://127.0.0.1:8000/early http://127.0.0.1:8000/silent /d/\n\
                 RUN cd /d && for f in told odd early silent; do echo $f $(busybox stat -c %Y $f); done\n";
    fs::write(context.join("Dockerfile"), times)?;
    let build = |flags: &[&str]| {
        let (ok, said) = run(docker_build(host, &[&["-t", "when"], flags].concat(), &context))?;
        ensure!(ok, "{said}");
        Ok(said)
    };
    let id = || host.docker(&["image", "inspect", "-f", "{{.Id}}", "when"]);
    let first = build(&[])?;
    for line in ["told 1000000000", "odd 0", "early 0", "silent 0"] {
        ensure!(first.lines().any(|l| l == line), "{line}: {first}");
    }
    // The time does not make it another file.
    let made = id()?;
    *said.lock().expect("not poisoned") = "Sun, 09 Sep 2007 01:46:40 GMT".to_owned();
    let again = build(&[])?;
    ensure!(cached(&again) == 2 && id()? == made, "{again}");
    // Nothing is younger than is asked for, and so nothing of it is in the image.
    let mut images = Vec::new();
    for date in ["Sun, 09 Sep 2007 01:46:40 GMT", "Tuesday, 09-Sep-08 01:46:40 GMT"] {
        date.clone_into(&mut said.lock().expect("not poisoned"));
        let said = build(&["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1100000000"])?;
        ensure!(said.lines().any(|l| l == "told 1100000000"), "{said}");
        images.push(id()?);
    }
    ensure!(images[0] == images[1], "{images:?}");
    lab.down()
}

#[test]
fn servers_are_told_the_secrets_that_are_for_them_and_nobody_else() -> Result<()> {
    const TOKEN: &str = "t0ken-of-a-server";
    let (lab, context) = builder("bauth")?;
    let host = lab.host(1);
    let elsewhere = serve(host, 8001, |_, _| ("200 OK", String::new(), b"elsewhere".to_vec()))?;
    let asked = serve(host, 8000, |path, authorization| match path {
        "/moved" => ("302 Found", "Location: http://127.0.0.1:8001/there\r\n".to_owned(), Vec::new()),
        "/within" => ("302 Found", "Location: /f\r\n".to_owned(), Vec::new()),
        "/public" => ("200 OK", String::new(), b"public".to_vec()),
        _ if authorization == format!("Bearer {TOKEN}") => ("200 OK", String::new(), b"private".to_vec()),
        _ => ("401 Unauthorized", String::new(), Vec::new()),
    })?;
    let token = host.dir.join("token");
    fs::write(&token, format!("{TOKEN}\n"))?;
    let build = |lines: &str, secrets: &[&str]| {
        fs::write(context.join("Dockerfile"), format!("FROM bb\n{lines}\n"))?;
        let mut command = host.skep_command();
        command.args(["build", "-t", "got", "--no-cache"]).env("GIVEN", format!("Bearer {TOKEN}"));
        command.args(secrets.iter().flat_map(|secret| ["--secret", secret])).arg(&context);
        run(command)
    };
    let of_file = format!("id=HTTP_AUTH_TOKEN_127.0.0.1,src={}", path(&token));
    let url = "http://127.0.0.1:8000";
    let (ok, none) = build(&format!("ADD {url}/f /f"), &[])?;
    ensure!(!ok && none.contains("401") && none.contains("HTTP_AUTH_TOKEN_127.0.0.1"), "{none}");
    let (ok, others) = build(&format!("ADD {url}/f /f"), &["id=HTTP_AUTH_HEADER_localhost,env=GIVEN"])?;
    ensure!(!ok && others.contains("401"), "{others}");
    let mut all = none + &others;
    for secret in [of_file.as_str(), "id=HTTP_AUTH_HEADER_127.0.0.1,env=GIVEN"] {
        let lines = format!("ADD {url}/f /f\nADD {url}/within /w\nADD {url}/moved /m\nRUN cat /f /w /m");
        let (ok, said) = build(&lines, &[secret])?;
        ensure!(ok && said.contains("privateprivateelsewhere"), "{said}");
        all += &said;
    }
    {
        let (asked, elsewhere) =
            (asked.lock().expect("not poisoned"), elsewhere.lock().expect("not poisoned"));
        let told = |path: &str| asked.iter().any(|(p, by)| p == path && by.ends_with(TOKEN));
        ensure!(told("/f") && told("/moved"), "{asked:?}");
        ensure!(elsewhere.len() == 2 && elsewhere.iter().all(|(_, by)| by.is_empty()), "{elsewhere:?}");
    }
    // As a context, too.
    let mut command = host.skep_command();
    command.args(["build", "--secret", &of_file, &format!("{url}/Dockerfile")]);
    let (_, said) = run(command)?;
    ensure!(said.contains("unknown instruction"), "it came, and is no Dockerfile: {said}");
    // One that can be no header is not sent.
    fs::write(&token, "two\nlines")?;
    let (ok, said) = build(&format!("ADD {url}/f /f"), &[&of_file])?;
    ensure!(!ok && said.contains("HTTP_AUTH_TOKEN_127.0.0.1") && !said.contains("two"), "{said}");
    fs::remove_file(&token)?;
    nowhere(host, TOKEN, &all)?;
    lab.down()
}

#[test]
fn repositories_are_asked_with_a_secret_which_goes_nowhere_else() -> Result<()> {
    const TOKEN: &str = "t0ken-of-a-repository";
    // `x-access-token:` and the token, in base64.
    const BASIC: &str = "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4tb2YtYS1yZXBvc2l0b3J5";
    let (lab, context) = builder("bgauth")?;
    let host = lab.host(1);
    // A repository as files, which git asks for where a server speaks no smart HTTP (gitprotocol-http(5)).
    let work = host.dir.join("work");
    fs::create_dir_all(&work)?;
    git(&work, &["init", "-q"])?;
    fs::write(work.join("a"), "private")?;
    fs::write(work.join("Dockerfile"), "FROM bb\nRUN echo made of it\n")?;
    git(&work, &["add", "."])?;
    git(&work, &["commit", "-q", "-m", "x"])?;
    git(&work, &["update-server-info"])?;
    let files = work.join(".git");
    let elsewhere = serve(host, 8001, |_, _| ("404 Not Found", String::new(), Vec::new()))?;
    let asked = serve(host, 8000, move |target, authorization| {
        let target = target.split('?').next().unwrap_or_default();
        if let Some(rest) = target.strip_prefix("/moved.git") {
            return ("302 Found", format!("Location: http://127.0.0.1:8001/r.git{rest}\r\n"), Vec::new());
        }
        if authorization != BASIC && authorization != format!("Bearer {TOKEN}") {
            return ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n".to_owned(), Vec::new());
        }
        match target.strip_prefix("/r.git/").and_then(|name| fs::read(files.join(name)).ok()) {
            Some(content) => ("200 OK", String::new(), content),
            None => ("404 Not Found", String::new(), Vec::new()),
        }
    })?;
    let build = |args: &[&str]| {
        let mut command = host.skep_command();
        command.args(["build", "-t", "got", "--no-cache"]).args(args);
        command.env("GIVEN", TOKEN).env("HEADER", format!("Bearer {TOKEN}"));
        run(command)
    };
    let url = "http://127.0.0.1:8000";
    fs::write(
        context.join("Dockerfile"),
        format!("FROM bb\nADD {url}/r.git#main /r/\nRUN cat /r/a && echo\n"),
    )?;
    let (ok, none) = build(&[path(&context)])?;
    ensure!(!ok && none.contains("cannot fetch the repository"), "{none}");
    let mut all = none;
    for secret in [
        "id=GIT_AUTH_TOKEN,env=GIVEN",
        "id=GIT_AUTH_TOKEN.127.0.0.1:8000,env=GIVEN",
        "id=GIT_AUTH_HEADER.127.0.0.1:8000,env=HEADER",
        "id=GIT_AUTH_HEADER,env=HEADER",
    ] {
        let (ok, said) = build(&["--secret", secret, path(&context)])?;
        ensure!(ok && said.contains("private"), "{secret}: {said}");
        all += &said;
    }
    // One for another host is not sent.
    let before = asked.lock().expect("not poisoned").len();
    let (ok, said) = build(&["--secret", "id=GIT_AUTH_TOKEN.127.0.0.1,env=GIVEN", path(&context)])?;
    ensure!(
        !ok && asked.lock().expect("not poisoned")[before..].iter().all(|(_, by)| by.is_empty()),
        "{said}"
    );
    // A context, and one by its name; `.git` is kept without it.
    let secret = "id=GIT_AUTH_TOKEN,env=GIVEN";
    let (ok, said) = build(&["--secret", secret, &format!("{url}/r.git#main")])?;
    ensure!(ok && said.contains("made of it"), "{said}");
    fs::write(
        context.join("Dockerfile"),
        format!(
            "FROM bb\nCOPY --from=named a /a\nADD --keep-git-dir=true {url}/r.git#main /r/\nRUN cat /r/.git/config\n"
        ),
    )?;
    let (ok, said) =
        build(&["--secret", secret, "--build-context", &format!("named={url}/r.git#main"), path(&context)])?;
    ensure!(ok && !said.contains("extraHeader"), "{said}");
    all += &said;
    // Whom the server sends it on to is not told.
    fs::write(context.join("Dockerfile"), format!("FROM bb\nADD {url}/moved.git /r/\n"))?;
    let (ok, said) = build(&["--secret", secret, path(&context)])?;
    ensure!(!ok && said.contains("name the repository by the URL it redirects to"), "{said}");
    let elsewhere = elsewhere.lock().expect("not poisoned").clone();
    ensure!(elsewhere.iter().all(|(_, by)| by.is_empty()), "{elsewhere:?}");
    all += &said;
    nowhere(host, TOKEN, &all)?;
    nowhere(host, BASIC.trim_start_matches("basic "), &all)?;
    lab.down()
}

/// That a secret is in nothing that a host keeps, shows or has said.
fn nowhere(host: &Host, secret: &str, said: &str) -> Result<()> {
    ensure!(!said.contains(secret), "it was said: {said}");
    let history = host.docker(&["history", "--no-trunc", "got"])?;
    ensure!(!history.contains(secret), "{history}");
    let found = crate::secrets::holding(&host.dir, secret)?;
    ensure!(found.is_empty(), "it is in {found:?}");
    Ok(())
}
