//! Repositories by the ways that people have them: a real sshd, and git's own server of smart HTTP behind TLS.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::PrivateKeyDer;
use skep_e2e::swarm::path;
use skep_e2e::{Host, eventually};

use crate::image::Image;
use crate::sources::git;
use crate::{builder, docker_build, run};

/// `me:secret` in base64, as a client sends it.
const BASIC: &str = "Basic bWU6c2VjcmV0";

/// A program that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where `cargo xtask packages` unpacks what would be started where it is installed.
fn tools() -> Result<PathBuf> {
    let mut dir = std::env::current_exe()?;
    while dir.file_name().is_some_and(|n| n != "target") {
        dir.pop();
    }
    Ok(dir.join("tools"))
}

/// A repository with one file, below the host's directory.
fn repository(host: &Host, name: &str) -> Result<PathBuf> {
    let dir = host.dir.join("git").join(name);
    fs::create_dir_all(&dir)?;
    git(&dir, &["init", "-q"])?;
    fs::write(dir.join("a"), name)?;
    fs::write(dir.join("Dockerfile"), "FROM bb\nCOPY a /a\n")?;
    git(&dir, &["add", "."])?;
    git(&dir, &["commit", "-q", "-m", "x"])?;
    Ok(dir)
}

/// Debian's sshd on port 22 of the host, for one key; the key's file.
fn sshd(host: &Host) -> Result<(Running, PathBuf)> {
    let dir = host.dir.join("ssh");
    fs::create_dir_all(&dir)?;
    for key in ["host", "user"] {
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(key));
        ensure!(make.status()?.success(), "no key is made");
    }
    fs::copy(dir.join("user.pub"), dir.join("authorized"))?;
    let at = dir.display();
    let config = format!(
        "HostKey {at}/host\nAuthorizedKeysFile {at}/authorized\nStrictModes no\nUsePAM no\nPidFile none\n\
         PasswordAuthentication no\nPermitRootLogin yes\n"
    );
    fs::write(dir.join("config"), config)?;
    let users = format!("{}\nsshd:x:74:65534::/run/sshd:/bin/false\n", fs::read_to_string("/etc/passwd")?);
    fs::write(dir.join("passwd"), users)?;
    // Without PAM an account that is locked gets nobody in.
    fs::write(dir.join("shadow"), "root:*:19000:0:99999:7:::\nsshd:!:19000::::::\n")?;
    // All of it in a mount namespace of its own.
    let script = "mount --bind \"$1/passwd\" /etc/passwd && mount --bind \"$1/shadow\" /etc/shadow && mount -t tmpfs tmpfs /run && mkdir /run/sshd && \
                  exec \"$2/usr/sbin/sshd\" -D -e -f \"$1/config\"";
    let (tools, installed) = (tools()?, Path::new("/"));
    let root = [installed, &tools].into_iter().find(|r| r.join("usr/sbin/sshd").exists());
    let root = root.context("no sshd: run `cargo xtask packages`")?;
    let mut server = host.command("unshare")?;
    server.args(["-m", "sh", "-c", script, "sh"]).arg(&dir).arg(root);
    server.env("LD_LIBRARY_PATH", tools.join("usr/lib/x86_64-linux-gnu"));
    server.stderr(fs::File::create(dir.join("log"))?);
    let server = Running(server.spawn()?);
    eventually("sshd listens", Duration::from_secs(60), || {
        host.exec(&["busybox", "nc", "-w", "2", "127.0.0.1", "22"]).map(drop)
    })?;
    Ok((server, dir.join("user")))
}

#[test]
fn repositories_come_by_ssh_with_the_hosts_key_or_the_agent_that_is_forwarded() -> Result<()> {
    let (lab, context) = builder("bssh")?;
    let host = lab.host(1);
    let repo = repository(host, "one")?;
    // Keys and known hosts of root, for this host alone.
    fs::create_dir_all("/root/.ssh")?;
    host.exec(&["mount", "-t", "tmpfs", "tmpfs", "/root/.ssh"])?;
    let (_sshd, key) = sshd(host)?;
    let url = format!("ssh://root@127.0.0.1{}", path(&repo));
    fs::write(context.join("Dockerfile"), format!("FROM bb\nADD {url} /r/\n"))?;
    let (ok, said) = run(docker_build(host, &["-t", "got"], &context))?;
    ensure!(
        !ok && said.contains("cannot fetch the repository") && said.contains("Permission denied"),
        "{said}"
    );
    // The agent that is forwarded.
    let socket = host.dir.join("agent");
    let _agent =
        Running(Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn()?);
    eventually("the agent takes the key", Duration::from_secs(60), || {
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(&key).env("SSH_AUTH_SOCK", &socket).stderr(Stdio::null());
        ensure!(add.status()?.success(), "it does not");
        Ok(())
    })?;
    let mut build = host.skep_command();
    build.args(["build", "-t", "got", "--ssh", "default"]).arg(&context).env("SSH_AUTH_SOCK", &socket);
    let (ok, said) = run(build)?;
    ensure!(ok, "{said}");
    ensure!(Image::read(host, "got", &[])?.file("/r/a")?.content == b"one");
    // The key of the daemon's host, also for a context.
    host.exec(&["cp", path(&key), "/root/.ssh/id_ed25519"])?;
    let (ok, said) = run(docker_build(host, &["--no-cache", "-t", "got"], &context))?;
    ensure!(ok, "{said}");
    host.skep(&["build", "-t", "context", &url])?;
    ensure!(Image::read(host, "context", &[])?.file("/a")?.content == b"one");
    // Another host key than before is refused, and nobody is asked.
    let other = fs::read_to_string(host.dir.join("ssh/user.pub"))?;
    fs::write(host.dir.join("known"), format!("127.0.0.1 {other}"))?;
    host.exec(&["cp", path(&host.dir.join("known")), "/root/.ssh/known_hosts"])?;
    let (ok, said) = run(docker_build(host, &["--no-cache"], &context))?;
    ensure!(!ok && said.contains("Host key verification failed"), "{said}");
    lab.down()
}

/// A server of smart HTTP behind TLS, as git's `http-backend` answers; what is below `/private/` wants a password.
fn https(host: &Host, port: u16) -> Result<()> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::IpAddress("127.0.0.1".parse()?)];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key)?;
    fs::write(host.dir.join("ca.pem"), certificate.pem())?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![certificate.der().clone()], key)?);
    let (listener, root) = (host.listen(port)?, host.dir.join("git"));
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (config, root) = (config.clone(), root.clone());
            std::thread::spawn(move || {
                if let Err(e) = answer(config, stream, &root) {
                    eprintln!("git over HTTPS: {e:#}");
                }
            });
        }
    });
    Ok(())
}

fn answer(config: Arc<rustls::ServerConfig>, stream: TcpStream, root: &Path) -> Result<()> {
    let connection = rustls::ServerConnection::new(config)?;
    let mut stream = BufReader::new(rustls::StreamOwned::new(connection, stream));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        // One that does not trust us says nothing.
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let header = |name: &str| {
        let named = lines.iter().skip(1).filter_map(|l| l.split_once(':'));
        named
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim().to_owned())
            .next()
            .unwrap_or_default()
    };
    let mut asked = lines[0].split(' ');
    let (method, target) = (asked.next().context("a method")?, asked.next().context("a target")?);
    let (place, query) = target.split_once('?').unwrap_or((target, ""));
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body)?;
    if place.starts_with("/private") && header("authorization") != BASIC {
        let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        stream.get_mut().write_all(refusal.as_bytes())?;
        stream.get_mut().conn.send_close_notify();
        return Ok(stream.get_mut().flush()?);
    }
    let mut backend = Command::new("git");
    backend.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    for (name, value) in [
        ("REQUEST_METHOD", method),
        ("PATH_INFO", place.trim_end_matches(".git")),
        ("QUERY_STRING", query),
        ("CONTENT_TYPE", &header("content-type")),
        ("CONTENT_LENGTH", &body.len().to_string()),
        ("HTTP_CONTENT_ENCODING", &header("content-encoding")),
        ("GIT_PROTOCOL", &header("git-protocol")),
        ("REMOTE_ADDR", "127.0.0.1"),
    ] {
        backend.env(name, value);
    }
    let mut backend = backend.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    backend.stdin.take().context("its input")?.write_all(&body)?;
    let said = backend.wait_with_output()?.stdout;
    let end = said.windows(4).position(|w| w == b"\r\n\r\n").context("no head")?;
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    let status = head.lines().find_map(|l| l.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let head = format!("HTTP/1.1 {status}\r\n{head}\r\nConnection: close\r\n\r\n");
    let out = stream.get_mut();
    out.write_all(head.as_bytes())?;
    out.write_all(&said[end + 4..])?;
    out.conn.send_close_notify();
    Ok(out.flush()?)
}

#[test]
fn repositories_come_by_https_that_is_trusted_and_passwords_are_told_nobody() -> Result<()> {
    let (lab, context) = builder("bhttps")?;
    let host = lab.host(1);
    for name in ["public.git", "private/two.git"] {
        repository(host, name)?;
    }
    https(host, 8443)?;
    let build = |flags: &[&str], url: &str| {
        fs::write(context.join("Dockerfile"), format!("FROM bb\nADD {url} /r/\n"))?;
        run(docker_build(host, flags, &context))
    };
    let (ok, said) = build(&["-t", "got"], "https://127.0.0.1:8443/public.git")?;
    ensure!(!ok && said.contains("certificate"), "nobody trusts it yet: {said}");
    let trusted = std::env::var("SSL_CERT_FILE").unwrap_or("/etc/ssl/certs/ca-certificates.crt".into());
    host.exec(&["mount", "--bind", path(&host.dir.join("ca.pem")), &trusted])?;
    let (ok, said) = build(&["-t", "got"], "https://127.0.0.1:8443/public.git")?;
    ensure!(ok, "{said}");
    ensure!(Image::read(host, "got", &[])?.file("/r/a")?.content == b"public.git");
    host.skep(&["build", "-t", "context", "https://127.0.0.1:8443/public.git#main"])?;
    ensure!(Image::read(host, "context", &[])?.file("/a")?.content == b"public.git");
    // Nobody is asked for a password; one that is wrong is not told.
    let (ok, said) = build(&[], "https://127.0.0.1:8443/private/two.git")?;
    ensure!(
        !ok && said.contains("cannot fetch the repository https://127.0.0.1:8443/private/two.git"),
        "{said}"
    );
    let mut wrong = host.skep_command();
    wrong.args(["build", "https://me:wrong@127.0.0.1:8443/private/two.git"]);
    let (ok, said) = run(wrong)?;
    ensure!(!ok && said.contains("https://xxxxx:xxxxx@127.0.0.1") && !said.contains("wrong"), "{said}");
    let log = fs::read_to_string(host.log())?;
    ensure!(!log.contains("wrong"), "the password is in the log");
    host.skep(&["build", "-t", "private", "https://me:secret@127.0.0.1:8443/private/two.git"])?;
    ensure!(Image::read(host, "private", &[])?.file("/a")?.content == b"private/two.git");
    // Nor does it stay where the repository's own directory comes into the image.
    let (ok, said) = {
        let url = "https://me:secret@127.0.0.1:8443/private/two.git";
        fs::write(context.join("Dockerfile"), format!("FROM bb\nADD --keep-git-dir=true {url} /r/\n"))?;
        run(docker_build(host, &["-t", "kept"], &context))?
    };
    ensure!(ok, "{said}");
    let kept = Image::read(host, "kept", &[])?;
    let config = String::from_utf8(kept.file("/r/.git/config")?.content.clone())?;
    ensure!(config.contains("url = https://xxxxx:xxxxx@127.0.0.1:8443/private/two.git"), "{config}");
    ensure!(kept.file("/r/.git/FETCH_HEAD").is_err() && kept.file("/r/.git/logs/HEAD").is_err());
    let asked =
        ["build", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=yes", "https://127.0.0.1:8443/public.git"];
    let mut refused = host.skep_command();
    refused.args(asked);
    let (ok, said) = run(refused)?;
    ensure!(!ok && said.contains("BUILDKIT_CONTEXT_KEEP_GIT_DIR") && said.contains("\"yes\""), "{said}");
    lab.down()
}
