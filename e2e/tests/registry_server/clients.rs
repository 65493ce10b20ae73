//! The clients people have: docker, skep, skopeo and podman push to it and pull from it.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skep_e2e::swarm::{path, plain, refused};
use skep_e2e::{Host, Lab};

use crate::access::{Signer, USERS, claims};
use crate::server::{Served, random};

/// A host's client.
type Client = fn(&Host, &[&str]) -> Result<String>;

/// The digest that a push told.
pub fn pushed(said: &str) -> Result<String> {
    let line = said.lines().find(|l| l.contains(": digest: sha256:")).context(said.to_owned())?;
    Ok(line.split(' ').nth(2).context("a digest")?.to_owned())
}

/// A context of a Dockerfile that builds on nothing: busybox, and so many bytes.
pub fn context(dir: &Path, bytes: usize) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::copy("/bin/busybox", dir.join("busybox"))?;
    std::fs::write(dir.join("content"), random(bytes))?;
    let text = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY content /content\nCMD [\"/bin/busybox\", \"echo\", \"hello\"]\n";
    Ok(std::fs::write(dir.join("Dockerfile"), text)?)
}

/// Builds it by Docker's own client.
pub fn build(host: &Host, dir: &Path, image: &str) -> Result<()> {
    let mut command = host.docker_command();
    let built = command.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", image, path(dir)]).output()?;
    ensure!(built.status.success(), "{built:?}");
    Ok(())
}

/// Removes all images of a host, and what builds keep of them.
pub fn forget(host: &Host) -> Result<()> {
    host.docker(&["image", "prune", "-af"])?;
    host.skep(&["builder", "prune", "-af"])?;
    ensure!(host.docker(&["images", "-aq"])?.is_empty(), "{}", host.docker(&["images", "-a"])?);
    Ok(())
}

#[test]
fn what_is_pushed_is_a_cache_for_builds_that_name_it() -> Result<()> {
    let lab: Lab = plain("regk", 1)?;
    let one = lab.host(1);
    let _registry = Served::start_on(one, "127.0.0.1:5000", &[])?;
    let dir = one.dir.join("context");
    context(&dir, 1 << 20)?;
    let image = "127.0.0.1:5000/team/app:1";
    one.skep(&["build", "-q", "-t", image, path(&dir)])?;
    one.docker(&["push", "-q", image])?;
    let id = |name: &str| one.docker(&["image", "inspect", "-f", "{{.Id}}", name]);
    let built = id(image)?;
    for (client, name) in [(Host::docker as Client, "docker"), (Host::skep, "skep")] {
        forget(one)?;
        let said = client(one, &["build", "-t", "got", "--cache-from", image, path(&dir)])?;
        let cached = said.lines().filter(|l| l.trim() == "---> Using cache").count();
        ensure!(cached == 2 && id("got")? == built, "{name}: {said}");
    }
    lab.down()
}

#[test]
fn everybodys_clients_push_and_pull() -> Result<()> {
    let lab: Lab = plain("regc", 1)?;
    let one = lab.host(1);
    let registry = Served::start_on(one, "127.0.0.1:5000", &[])?;
    let dir = one.dir.join("context");
    context(&dir, 3 << 20)?;
    let image = "127.0.0.1:5000/team/app:1";
    build(one, &dir, image)?;
    let said = one.docker(&["push", image])?;
    ensure!(said.contains(": Pushed"), "{said}");
    let digest = pushed(&said)?;
    let again = one.skep(&["push", image])?;
    ensure!(again.contains(": Layer already exists") && pushed(&again)? == digest, "{again}");
    let other = "127.0.0.1:5000/other/app:1";
    one.docker(&["tag", image, other])?;
    let mounted = one.docker(&["push", other])?;
    ensure!(mounted.contains(": Mounted from team/app") && pushed(&mounted)? == digest, "{mounted}");
    for (client, name) in [(Host::docker as Client, image), (Host::skep, other)] {
        forget(one)?;
        let said = client(one, &["pull", name])?;
        ensure!(said.contains(&format!("Digest: {digest}")), "{said}");
        ensure!(one.docker(&["run", "--rm", name])? == "hello\n");
        let by_digest = format!("127.0.0.1:5000/team/app@{digest}");
        client(one, &["pull", "-q", &by_digest])?;
    }
    let absent = "manifest for 127.0.0.1:5000/team/app:none not found: manifest unknown: manifest unknown";
    refused(one, &["pull", "127.0.0.1:5000/team/app:none"], &[absent])?;

    // skopeo: out into a directory, in again under another name, and from name to name.
    let copied = one.dir.join("oci");
    let skopeo = |args: &[&str]| one.exec(&[&["skopeo", "--insecure-policy"], args].concat());
    let to = format!("oci:{}:1", copied.display());
    skopeo(&["copy", "-q", "--src-tls-verify=false", &format!("docker://{image}"), &to])?;
    let back = "docker://127.0.0.1:5000/skopeo/app:1";
    skopeo(&["copy", "-q", "--dest-tls-verify=false", &to, back])?;
    let over = "docker://127.0.0.1:5000/skopeo/over:1";
    skopeo(&["copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false", back, over])?;
    let listed = skopeo(&["list-tags", "--tls-verify=false", "docker://127.0.0.1:5000/skopeo/over"])?;
    ensure!(
        serde_json::from_str::<serde_json::Value>(&listed)?["Tags"] == serde_json::json!(["1"]),
        "{listed}"
    );
    ensure!(one.docker(&["run", "--rm", "127.0.0.1:5000/skopeo/over:1"])? == "hello\n");
    skopeo(&["delete", "--tls-verify=false", over])?;
    refused(one, &["pull", "127.0.0.1:5000/skopeo/over:1"], &["manifest unknown"])?;

    // podman: pulls, and pushes under another name.
    let policy = one.dir.join("policy.json");
    std::fs::write(&policy, "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}")?;
    let (root, run) = (one.dir.join("podman"), one.dir.join("podman-run"));
    let podman = |command: &str, args: &[&str]| {
        let global = ["podman", "--root", path(&root), "--runroot", path(&run), "--storage-driver", "vfs"];
        let signed = ["--signature-policy", path(&policy)];
        let signed: &[&str] = if ["pull", "push"].contains(&command) { &signed } else { &[] };
        one.exec(&[&global, &[command][..], signed, args].concat())
    };
    podman("pull", &["-q", "--tls-verify=false", image])?;
    let id = one.docker(&["inspect", "-f", "{{.Id}}", other])?;
    let theirs = podman("inspect", &["-f", "{{.Id}}", image])?;
    ensure!(id.trim().trim_start_matches("sha256:") == theirs.trim(), "{id} {theirs}");
    podman("push", &["-q", "--tls-verify=false", image, "127.0.0.1:5000/podman/app:1"])?;
    forget(one)?;
    ensure!(one.docker(&["run", "--rm", "127.0.0.1:5000/podman/app:1"])? == "hello\n");
    let log = registry.log()?;
    ensure!(!log.contains("ERROR") && log.contains("user=\"-\""), "{log}");
    over_tls(one, "127.0.0.1:5000/podman/app:1", &podman)?;
    lab.down()
}

/// A registry by TLS at the host's address, where only a certificate of an authority that is known will do: each client pushes to it and pulls.
fn over_tls(one: &Host, image: &str, podman: &dyn Fn(&str, &[&str]) -> Result<String>) -> Result<()> {
    let registry = format!("{}:5443", one.addr);
    let (authority_key, key) = (rcgen::KeyPair::generate()?, rcgen::KeyPair::generate()?);
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key)?.pem();
    let issuer = rcgen::Issuer::new(params, authority_key);
    let cert = rcgen::CertificateParams::new(vec![one.addr.clone()])?.signed_by(&key, &issuer)?;
    let (cert_file, key_file) = (one.dir.join("tls.crt"), one.dir.join("tls.key"));
    std::fs::write(&cert_file, cert.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let tls = ["--tls-cert", path(&cert_file), "--tls-key", path(&key_file)];
    let _registry = Served::start_on(one, &registry, &tls)?;
    let [docker, skep, skopeo, last] =
        ["docker", "skep", "skopeo", "podman"].map(|client| format!("{registry}/{client}/app:1"));
    one.docker(&["tag", image, &docker])?;
    one.docker(&["tag", image, &skep])?;
    let unknown = "x509: certificate signed by unknown authority";
    refused(one, &["push", &docker], &["failed to verify certificate", unknown])?;
    one.own_etc()?;
    // Where each of them looks.
    one.write(&format!("/etc/docker/certs.d/{registry}/ca.crt"), authority.as_bytes())?;
    for (client, name) in [(Host::docker as Client, &docker), (Host::skep, &skep)] {
        let digest = pushed(&client(one, &["push", name])?)?;
        one.docker(&["rmi", name])?;
        let said = client(one, &["pull", name])?;
        ensure!(said.contains(&digest), "{said}, not {digest}");
    }
    let copy = ["skopeo", "--insecure-policy", "copy", "-q"];
    one.exec(&[&copy[..], &[&format!("docker://{docker}"), &format!("docker://{skopeo}")]].concat())?;
    podman("pull", &["-q", &skopeo])?;
    podman("push", &["-q", &skopeo, &last])?;
    ensure!(one.docker(&["run", "--rm", &last])? == "hello\n");
    Ok(())
}

/// A token server: whoever is `me` gets what is asked for of `team/...`, anybody else and of all else nothing.
fn give_tokens(listener: &TcpListener, signer: &Signer) {
    for stream in listener.incoming().flatten() {
        if let Err(e) = give_token(stream, signer) {
            eprintln!("token server: {e:#}");
        }
    }
}

fn give_token(mut stream: TcpStream, signer: &Signer) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let asked = lines.next().context("a request")??;
    let mut known = false;
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        known |= line.to_lowercase().starts_with("authorization: basic ")
            && line.ends_with(&STANDARD.encode("me:secret"));
    }
    let query = asked.split(['?', ' ']).nth(2).unwrap_or_default();
    let decoded = query.replace("%3A", ":").replace("%2F", "/").replace("%2C", ",").replace("%20", "+");
    let scopes = decoded.split('&').filter_map(|p| p.strip_prefix("scope=")).flat_map(|s| s.split('+'));
    let grants: Vec<Value> = scopes
        .filter_map(|scope| {
            let mut parts = scope.split(':');
            let (kind, name, actions) = (parts.next()?, parts.next()?, parts.next()?);
            let actions: Vec<&str> =
                if known && name.starts_with("team/") { actions.split(',').collect() } else { vec![] };
            Some(json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let head = json!({ "alg": "ES256", "kid": "one", "typ": "JWT" });
    let token = signer.sign(&head, &claims(grants.into()))?;
    let token = token.rsplit(' ').next().context("a token")?;
    let body = json!({ "token": token }).to_string();
    let (status, body) = if decoded.contains("account=") && !known {
        ("401 Unauthorized", "{}".into())
    } else {
        ("200 OK", body)
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

#[test]
fn docker_logs_in_with_a_password_and_with_tokens() -> Result<()> {
    let lab: Lab = plain("rega", 1)?;
    let one = lab.host(1);
    let (users, set) = (one.dir.join("htpasswd"), one.dir.join("jwks.json"));
    std::fs::write(&users, USERS)?;
    let signer = Signer::new()?;
    std::fs::write(&set, signer.set().to_string())?;
    let listener = one.listen(5002)?;
    std::thread::spawn(move || give_tokens(&listener, &signer));
    let _passwords = Served::start_on(one, "127.0.0.1:5000", &["--htpasswd", path(&users)])?;
    let tokens = [
        "--auth-token-realm",
        "http://127.0.0.1:5002/token",
        "--auth-token-service",
        "registry",
        "--auth-token-issuer",
        "issuer",
        "--auth-token-jwks",
        path(&set),
    ];
    let _tokens = Served::start_on(one, "127.0.0.1:5001", &tokens)?;
    let dir = one.dir.join("context");
    context(&dir, 1000)?;
    one.skep(&["build", "-q", "-t", "app", path(&dir)])?;
    for (registry, unknown) in [
        ("127.0.0.1:5000", "no basic auth credentials"),
        ("127.0.0.1:5001", "requested access to the resource is denied"),
    ] {
        let (image, other) = (format!("{registry}/team/app:1"), format!("{registry}/team/other:1"));
        one.docker(&["tag", "app", &image])?;
        one.docker(&["tag", "app", &other])?;
        refused(one, &["push", &image], &[unknown])?;
        refused(one, &["login", "-u", "me", "-p", "wrong", registry], &["nauthorized"])?;
        let said = one.docker(&["login", "-u", "me", "-p", "secret", registry])?;
        ensure!(said.contains("Login Succeeded"), "{said}");
        let digest = pushed(&one.docker(&["push", &image])?)?;
        let said = one.docker(&["push", &other])?;
        ensure!(said.contains("Mounted from team/app"), "{said}");
        one.docker(&["rmi", &image, &other])?;
        ensure!(one.docker(&["pull", &image])?.contains(&digest));
    }
    // A token for another's repository is given, and does not reach.
    let theirs = "127.0.0.1:5001/theirs/app:1";
    one.docker(&["tag", "app", theirs])?;
    refused(one, &["push", theirs], &["requested access to the resource is denied"])?;
    lab.down()
}
