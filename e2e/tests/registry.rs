//! A real registry: push and pull by both clients, several platforms, TLS, passwords, connections that are cut, and
//! services whose image only the registry has.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_e2e::registry::{CutProxy, Registry, RegistryOptions};
use skep_e2e::swarm::{binaries, join, path, refused, token, wait_running_on};
use skep_e2e::{Host, Lab, LabOptions, eventually};

/// Hosts without any image.
fn bare(name: &str, hosts: u32) -> Result<Lab> {
    let (skep, init) = binaries()?;
    Lab::up(LabOptions { name: format!("{name}{}", std::process::id() % 10_000), hosts, skep, init })
}

/// Imports an image of busybox and so many random bytes.
fn import(host: &Host, name: &str, bytes: usize) -> Result<()> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_path_with_name("/bin/busybox", "bin/busybox")?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(bytes as u64);
    let content: Vec<u8> = std::iter::repeat_with(rand::random::<u8>).take(bytes).collect();
    tar.append_data(&mut header, "content", content.as_slice())?;
    let archive = host.dir.join("import.tar");
    std::fs::write(&archive, tar.into_inner()?)?;
    let change = "CMD [\"/bin/busybox\",\"echo\",\"hello\"]";
    host.docker(&["import", "-c", change, path(&archive), name]).map(drop)
}

/// Files in the store and what is half-made.
fn stored(host: &Host) -> Result<String> {
    let mut all = Vec::new();
    for dir in ["blobs/sha256", "layers", "tmp"] {
        let dir = host.dir.join("data").join(dir);
        let found = host.exec(&["find", path(&dir), "-mindepth", "1", "-maxdepth", "1"])?;
        all.extend(found.lines().map(str::to_owned));
    }
    all.sort();
    Ok(all.join("\n"))
}

/// The digest that a push told.
fn pushed(said: &str) -> Result<String> {
    let line = said.lines().find(|l| l.contains(": digest: sha256:")).context(said.to_owned())?;
    Ok(line.split(' ').nth(2).context("a digest")?.to_owned())
}

#[test]
fn images_go_to_a_registry_and_back() -> Result<()> {
    let lab = bare("reg", 1)?;
    let one = lab.host(1);
    let _registry = Registry::start(one, "127.0.0.1:5000", &RegistryOptions::default())?;
    import(one, "small:1", 1000)?;
    let image = "127.0.0.1:5000/team/small:1";
    one.docker(&["tag", "small:1", image])?;
    let id = one.docker(&["inspect", "-f", "{{.Id}}", image])?;
    let said = one.docker(&["push", image])?;
    ensure!(said.contains("The push refers to repository [127.0.0.1:5000/team/small]"), "{said}");
    ensure!(said.contains(": Preparing") && said.contains(": Pushed"), "{said}");
    let digest = pushed(&said)?;
    let again = one.skep(&["push", image])?;
    ensure!(again.contains(": Layer already exists") && pushed(&again)? == digest, "{again}");
    let mounted = "127.0.0.1:5000/other/small:1";
    one.docker(&["tag", "small:1", mounted])?;
    let said = one.docker(&["push", mounted])?;
    ensure!(said.contains(": Mounted from team/small") && pushed(&said)? == digest, "{said}");

    // Gone here, and back by tag and by digest, with each client.
    let by_digest = format!("127.0.0.1:5000/team/small@{digest}");
    for (pull, name) in [(Host::docker as fn(&Host, &[&str]) -> Result<String>, image), (Host::skep, image)] {
        one.docker(&["rmi", "-f", id.trim()])?;
        ensure!(stored(one)?.is_empty(), "{}", stored(one)?);
        let said = pull(one, &["pull", name])?;
        for words in [
            "1: Pulling from team/small",
            ": Pulling fs layer",
            ": Verifying Checksum",
            ": Download complete",
            ": Pull complete",
            &format!("Digest: {digest}"),
            &format!("Status: Downloaded newer image for {image}"),
        ] {
            ensure!(said.contains(words), "{words:?} is missing: {said}");
        }
        ensure!(said.lines().last() == Some(image), "{said}");
        let said = pull(one, &["pull", name])?;
        ensure!(said.contains(&format!("Status: Image is up to date for {image}")), "{said}");
        ensure!(one.docker(&["inspect", "-f", "{{.Id}}", &by_digest])? == id, "another image came");
        ensure!(one.docker(&["run", "--rm", name])? == "hello\n", "it does not run");
        one.docker(&["rmi", name])?;
        ensure!(stored(one)?.is_empty(), "{}", stored(one)?);
        pull(one, &["pull", "-q", &by_digest])?;
        ensure!(one.docker(&["inspect", "-f", "{{.Id}}", &by_digest])? == id, "another image came");
    }
    one.docker(&["rmi", "-f", id.trim()])?;

    // `run` brings what is missing, and `--pull never` does not.
    refused(one, &["run", "--rm", "--pull", "never", image], &["No such image", image])?;
    ensure!(one.docker(&["run", "--rm", image])? == "hello\n", "docker run pulls");
    ensure!(one.docker(&["run", "--rm", "--pull", "always", image])? == "hello\n", "docker run pulls");
    one.docker(&["rmi", image])?;
    ensure!(one.skep(&["run", "--rm", image])? == "hello\n", "skep run pulls");
    // What was pulled goes out as it came in.
    ensure!(pushed(&one.docker(&["push", image])?)? == digest, "the digest changed");

    // All tags.
    one.docker(&["tag", image, "127.0.0.1:5000/team/small:2"])?;
    one.docker(&["push", "-a", "127.0.0.1:5000/team/small"])?;
    one.docker(&["rmi", "-f", id.trim()])?;
    one.docker(&["pull", "-a", "127.0.0.1:5000/team/small"])?;
    let tags = one.docker(&["images", "--format", "{{.Tag}}", "127.0.0.1:5000/team/small"])?;
    ensure!(tags.lines().count() == 2, "{tags}");

    for (what, words) in [
        (
            "127.0.0.1:5000/team/small:none",
            "manifest for 127.0.0.1:5000/team/small:none not found: manifest unknown: manifest unknown",
        ),
        ("127.0.0.1:5000/nobody/none:1", "not found"),
        ("127.0.0.1:5001/team/small:1", "dial tcp 127.0.0.1:5001: connect: connection refused"),
    ] {
        refused(one, &["pull", what], &[words])?;
    }
    refused(
        one,
        &["push", "127.0.0.1:5000/team/nothing:1"],
        &["An image does not exist locally with the tag: 127.0.0.1:5000/team/nothing"],
    )?;
    platforms(one, image)?;
    lists(one)?;
    lab.down()
}

/// An index of two platforms: the host's is taken, the other is there when asked for.
fn platforms(one: &Host, image: &str) -> Result<()> {
    // The same image said to be another's: only the configuration differs.
    let config = one.docker(&["save", image])?;
    ensure!(!config.is_empty(), "an archive");
    let curl = |args: &[&str]| one.exec(&[&["curl", "-sS", "--fail"], args].concat());
    let base = "http://127.0.0.1:5000/v2/team/small";
    let accept = "Accept: application/vnd.docker.distribution.manifest.v2+json";
    let manifest = curl(&["-H", accept, &format!("{base}/manifests/1")])?;
    let read: serde_json::Value = serde_json::from_str(&manifest)?;
    let digest = read["config"]["digest"].as_str().context("a digest")?;
    let theirs = curl(&[&format!("{base}/blobs/{digest}")])?.replace("\"amd64\"", "\"arm64\"");
    let file = one.dir.join("blob");
    let put = |bytes: &str, url: &str, kind: &str| -> Result<()> {
        std::fs::write(&file, bytes)?;
        let data = format!("@{}", file.display());
        curl(&["-X", "PUT", "-H", &format!("Content-Type: {kind}"), "--data-binary", &data, url]).map(drop)
    };
    let sha = |bytes: &str| -> Result<String> {
        std::fs::write(&file, bytes)?;
        let out = one.exec(&["sha256sum", path(&file)])?;
        Ok(format!("sha256:{}", out.split(' ').next().unwrap_or_default()))
    };
    let other = sha(&theirs)?;
    let begun = one.exec(&[
        "curl",
        "-sS",
        "-D",
        "-",
        "-o",
        "/dev/null",
        "-X",
        "POST",
        &format!("{base}/blobs/uploads/"),
    ])?;
    let location = begun
        .lines()
        .find_map(|l| l.strip_prefix("Location: "))
        .context("a place to upload to")?
        .trim()
        .to_owned();
    let separator = if location.contains('?') { '&' } else { '?' };
    put(&theirs, &format!("{location}{separator}digest={other}"), "application/octet-stream")?;
    let mut second = read.clone();
    second["config"]["digest"] = other.clone().into();
    second["config"]["size"] = theirs.len().into();
    let second = serde_json::to_string(&second)?;
    let kind = read["mediaType"].as_str().context("a media type")?;
    put(&second, &format!("{base}/manifests/arm"), kind)?;
    let entry = |bytes: &str, arch: &str| -> Result<serde_json::Value> {
        Ok(serde_json::json!({
            "mediaType": kind, "digest": sha(bytes)?, "size": bytes.len(),
            "platform": { "architecture": arch, "os": "linux" },
        }))
    };
    let list = "application/vnd.docker.distribution.manifest.list.v2+json";
    let index = serde_json::json!({
        "schemaVersion": 2, "mediaType": list,
        "manifests": [entry(&second, "arm64")?, entry(&manifest, "amd64")?],
    });
    put(&index.to_string(), &format!("{base}/manifests/both"), list)?;
    let both = "127.0.0.1:5000/team/small:both";
    let architecture = |name: &str| one.docker(&["inspect", "-f", "{{.Architecture}}", name]);
    one.docker(&["pull", both])?;
    ensure!(architecture(both)?.trim() == "amd64", "this host's is taken");
    one.docker(&["pull", "--platform", "linux/arm64", both])?;
    ensure!(architecture(both)?.trim() == "arm64", "the one asked for is taken");
    refused(
        one,
        &["pull", "--platform", "linux/s390x", both],
        &["no matching manifest for linux/s390x in the manifest list entries"],
    )
}

/// Lists put together by our client, which Docker's reads; both ask the registry from the host.
fn lists(one: &Host) -> Result<()> {
    let name = |tag: &str| format!("127.0.0.1:5000/team/{tag}");
    let config = format!("DOCKER_CONFIG={}", one.dir.join("docker-config").display());
    let skep = |args: &[&str]| one.exec(&[&["env", &config, path(&one.skep), "manifest"], args].concat());
    let list = name("lists:1");
    skep(&["create", &list, &name("small:1"), &name("small:arm")])?;
    skep(&["annotate", &list, &name("small:arm"), "--arch", "arm", "--variant", "v6"])?;
    let local: serde_json::Value = serde_json::from_str(&skep(&["inspect", &list])?)?;
    // The images are of another repository: their blobs are mounted.
    let said = skep(&["push", "--purge", &list])?;
    ensure!(said.lines().last().is_some_and(|l| l.starts_with("sha256:")), "{said}");
    let theirs = one.docker_inside()?.args(["manifest", "inspect", "--insecure", &list]).output()?;
    ensure!(theirs.status.success(), "{theirs:?}");
    let theirs: serde_json::Value = serde_json::from_slice(&theirs.stdout)?;
    let ours: serde_json::Value = serde_json::from_str(&skep(&["inspect", &list])?)?;
    ensure!(ours == theirs && ours == local, "docker: {theirs}\nskep: {ours}\nbefore: {local}");
    let arm = ours["manifests"].as_array().into_iter().flatten().find(|m| m["platform"]["variant"] == "v6");
    ensure!(arm.is_some(), "{ours}");
    one.docker(&["pull", &list])?;
    one.docker(&["pull", "--platform", "linux/arm/v7", &list])?;
    // What nothing uses goes; what a container is made of stays.
    one.docker(&["create", "--name", "kept", &name("small:1")])?;
    one.docker(&["image", "prune", "-a", "-f"])?;
    let left = one.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?;
    ensure!(!left.contains("lists") && left.contains("team/small:1"), "{left}");
    ensure!(one.docker(&["start", "-a", "kept"])? == "hello\n", "it does not run");
    one.docker(&["rm", "kept"])?;
    one.skep(&["image", "prune", "-a", "-f"])?;
    ensure!(stored(one)?.is_empty(), "{}", stored(one)?);
    refused(one, &["search", "127.0.0.1:5000/x"], &["registry 127.0.0.1:5000 has no search"])
}

#[test]
fn a_cut_connection_is_taken_up_where_it_was_and_nothing_half_is_kept() -> Result<()> {
    let lab = bare("regcut", 1)?;
    let one = lab.host(1);
    let _registry = Registry::start(one, "127.0.0.1:5000", &RegistryOptions::default())?;
    let proxy = CutProxy::start(one, "127.0.0.1:5002", "127.0.0.1:5000", 3 << 20)?;
    import(one, "127.0.0.1:5000/big:1", 8 << 20)?;
    let id = one.docker(&["inspect", "-f", "{{.Id}}", "127.0.0.1:5000/big:1"])?;
    one.docker(&["push", "127.0.0.1:5000/big:1"])?;
    one.docker(&["rmi", "127.0.0.1:5000/big:1"])?;
    ensure!(stored(one)?.is_empty(), "{}", stored(one)?);

    // Every connection is cut, and none brings a byte of the layer: given up, and nothing is left.
    let barren = CutProxy::start(one, "127.0.0.1:5003", "127.0.0.1:5000", 2000)?;
    barren.cut(i64::MAX);
    refused(one, &["pull", "127.0.0.1:5003/big:1"], &["127.0.0.1:5003"])?;
    ensure!(one.docker(&["images", "-aq"])?.is_empty(), "an image is there");
    eventually("nothing half-made is left", Duration::from_secs(60), || {
        ensure!(stored(one)?.is_empty(), "{}", stored(one)?);
        Ok(())
    })?;

    proxy.cut(2);
    let said = one.docker(&["pull", "127.0.0.1:5002/big:1"])?;
    ensure!(said.contains("Retrying in") && said.contains("Pull complete"), "{said}");
    ensure!(proxy.ranges() == 2, "{} requests for the rest", proxy.ranges());
    ensure!(one.docker(&["inspect", "-f", "{{.Id}}", "127.0.0.1:5002/big:1"])? == id, "another image came");
    ensure!(one.docker(&["run", "--rm", "127.0.0.1:5002/big:1"])? == "hello\n", "it does not run");
    // The container that ran is put aside there on its way out.
    eventually("nothing half-made is left", Duration::from_secs(60), || {
        ensure!(!stored(one)?.contains("data/tmp/"), "{}", stored(one)?);
        Ok(())
    })?;
    one.docker(&["rmi", "127.0.0.1:5002/big:1"])?;

    // A client leaves half-way: the next pull goes on from there.
    let once = CutProxy::start(one, "127.0.0.1:5005", "127.0.0.1:5000", 3 << 20)?;
    once.cut(1);
    let mut left = one.docker_command();
    let mut left =
        left.args(["pull", "127.0.0.1:5005/big:1"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let lines = std::io::BufReader::new(left.stdout.take().context("piped")?);
    let mut lines = std::io::BufRead::lines(lines);
    ensure!(lines.any(|l| l.is_ok_and(|l| l.contains("Retrying in"))), "the connection was not cut");
    left.kill()?;
    left.wait()?;
    one.docker(&["pull", "127.0.0.1:5005/big:1"])?;
    ensure!(once.ranges() == 1, "{} requests for the rest", once.ranges());
    ensure!(one.docker(&["inspect", "-f", "{{.Id}}", "127.0.0.1:5005/big:1"])? == id, "another image came");
    eventually("nothing is kept of what is in the store", Duration::from_secs(60), || {
        ensure!(!stored(one)?.contains("data/tmp/"), "{}", stored(one)?);
        Ok(())
    })?;
    one.docker(&["rmi", "127.0.0.1:5005/big:1"])?;

    // The daemon is killed half-way: the next one sweeps, and pulls.
    let mut pull = one.docker_command();
    let slow = CutProxy::start(one, "127.0.0.1:5004", "127.0.0.1:5000", 2000)?;
    slow.cut(i64::MAX);
    let mut child =
        pull.args(["pull", "127.0.0.1:5004/big:1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("the pull has begun", Duration::from_secs(60), || {
        ensure!(stored(one)?.contains("data/tmp/"), "nothing is under way");
        Ok(())
    })?;
    one.stop_daemon("-KILL")?;
    child.wait()?;
    one.start_daemon()?;
    ensure!(stored(one)?.is_empty(), "{}", stored(one)?);

    // Many at once share the work.
    let pulls: Vec<_> = (0..4)
        .map(|_| {
            let mut command = one.docker_command();
            Ok(command.args(["pull", "-q", "127.0.0.1:5000/big:1"]).stdout(Stdio::null()).spawn()?)
        })
        .collect::<Result<_>>()?;
    for mut pull in pulls {
        ensure!(pull.wait()?.success(), "one of several pulls failed");
    }
    ensure!(one.docker(&["run", "--rm", "127.0.0.1:5000/big:1"])? == "hello\n", "it does not run");
    lab.down()
}

/// What a damaged registry has of a blob.
type Damage = fn(&mut Vec<u8>);

/// A registry that has what another one has, but for one blob.
fn damaged(one: &Host, name: &str, like: &Registry, digest: &str, damage: Damage) -> Result<Registry> {
    let (from, to) = (Registry::directory(one, &like.name), Registry::directory(one, name));
    std::fs::create_dir_all(&to)?;
    one.exec(&["cp", "-a", path(&from.join("data")), path(&to)])?;
    let hash = digest.trim_start_matches("sha256:");
    let blob = to.join("data/docker/registry/v2/blobs/sha256").join(&hash[..2]).join(hash).join("data");
    let mut bytes = std::fs::read(&blob).with_context(|| format!("read {}", blob.display()))?;
    damage(&mut bytes);
    std::fs::write(&blob, bytes)?;
    Registry::start(one, name, &RegistryOptions::default())
}

#[test]
fn what_a_mirror_damages_is_refused_by_its_digest_and_fetched_elsewhere() -> Result<()> {
    let lab = bare("regmir", 1)?;
    let one = lab.host(1);
    let sound = Registry::start(one, "127.0.0.1:5000", &RegistryOptions::default())?;
    let image = "127.0.0.1:5000/library/big:1";
    import(one, image, 8 << 20)?;
    let id = one.docker(&["inspect", "-f", "{{.Id}}", image])?;
    let manifest = pushed(&one.docker(&["push", image])?)?;
    one.docker(&["rmi", image])?;
    let url = format!("http://{}/v2/library/big/manifests/{manifest}", sound.name);
    let accept = "Accept: application/vnd.docker.distribution.manifest.v2+json";
    let read: serde_json::Value =
        serde_json::from_str(&one.exec(&["curl", "-sS", "--fail", "-H", accept, &url])?)?;
    let config = read["config"]["digest"].as_str().context("a configuration")?;
    let layer = read["layers"][0]["digest"].as_str().context("a layer")?;

    let flip: Damage = |bytes| {
        let middle = bytes.len() / 4 * 3;
        bytes[middle] ^= 1;
    };
    let wrong = damaged(one, "127.0.0.1:5001", &sound, layer, flip)?;
    let short = damaged(one, "127.0.0.1:5002", &sound, layer, |bytes| bytes.truncate(bytes.len() / 2))?;
    let odd = damaged(one, "127.0.0.1:5003", &sound, config, flip)?;
    let other = damaged(one, "127.0.0.1:5004", &sound, &manifest, |bytes| bytes.push(b'\n'))?;
    let cut = "127.0.0.1:5005";
    let barren = CutProxy::start(one, cut, &sound.name, 2000)?;
    barren.cut(i64::MAX);

    // The registry itself has nothing behind it.
    for (registry, what) in [(&wrong, "filesystem layer"), (&odd, "image"), (&other, "manifest")] {
        let name = format!("{}/library/big:1", registry.name);
        refused(one, &["pull", &name], &[&format!("{what} verification failed for digest sha256:")])?;
    }
    refused(one, &["pull", &format!("{}/library/big:1", short.name)], &[&short.name])?;
    eventually("nothing half-made is left", Duration::from_secs(60), || {
        ensure!(stored(one)?.is_empty(), "{}", stored(one)?);
        Ok(())
    })?;

    // A mirror has the next one, from wherever it is left.
    one.stop_daemon("-TERM")?;
    let mirrors = [&other.name, &odd.name, cut, &short.name, &wrong.name, &sound.name];
    let urls: Vec<String> = mirrors.iter().map(|m| format!("\"http://{m}\"")).collect();
    std::fs::write(one.dir.join("daemon.toml"), format!("registry-mirrors = [{}]\n", urls.join(", ")))?;
    one.start_daemon()?;
    let said = one.docker(&["pull", "big:1"])?;
    ensure!(said.contains(&format!("Digest: {manifest}")), "{said}");
    ensure!(one.docker(&["inspect", "-f", "{{.Id}}", "big:1"])? == id, "another image came");
    ensure!(one.docker(&["run", "--rm", "big:1"])? == "hello\n", "it does not run");
    eventually("nothing half-made is left", Duration::from_secs(60), || {
        ensure!(!stored(one)?.contains("data/tmp/"), "{}", stored(one)?);
        Ok(())
    })?;
    let log = one.log_tail();
    for left in [&other.name, &odd.name, cut, &wrong.name] {
        let told = log.lines().any(|l| l.contains("the mirror is left") && l.contains(left));
        ensure!(told, "{left} was not left: {log}");
    }
    lab.down()
}

/// An authority, and a certificate of it for an address; both certificates and the key in PEM.
fn certificates(dir: &Path, address: &str) -> Result<(PathBuf, PathBuf, String)> {
    let ca_key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "test authority");
    let ca = params.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate()?;
    let cert = rcgen::CertificateParams::new(vec![address.to_owned()])?.signed_by(&key, &issuer)?;
    let (cert_file, key_file) = (dir.join("registry.crt"), dir.join("registry.key"));
    std::fs::write(&cert_file, cert.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    Ok((cert_file, key_file, ca.pem()))
}

/// A certificate for an address that signed itself, as `openssl req -x509` makes one: an authority's by its mark.
fn self_signed(dir: &Path, address: &str) -> Result<(PathBuf, PathBuf, String)> {
    let key = rcgen::KeyPair::generate()?;
    let mut params = rcgen::CertificateParams::new(vec![address.to_owned()])?;
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let cert = params.self_signed(&key)?.pem();
    let (cert_file, key_file) = (dir.join("self.crt"), dir.join("self.key"));
    std::fs::write(&cert_file, &cert)?;
    std::fs::write(&key_file, key.serialize_pem())?;
    Ok((cert_file, key_file, cert))
}

fn login(command: &mut Command, registry: &str, password: &str) -> Result<std::process::Output> {
    command.args(["login", "-u", "me", "--password-stdin", registry]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().context("its input")?, password.as_bytes())?;
    Ok(child.wait_with_output()?)
}

#[test]
fn services_run_images_that_only_a_guarded_registry_has() -> Result<()> {
    let lab = bare("regtls", 2)?;
    let (one, two) = (lab.host(1), lab.host(2));
    let name = "10.99.0.1:5000";
    let (cert, key, ca) = certificates(&one.dir, "10.99.0.1")?;
    let _registry = Registry::start(one, name, &RegistryOptions { tls: Some((cert, key)), password: true })?;
    let image = "10.99.0.1:5000/team/app:1";
    import(one, image, 1000)?;
    refused(
        one,
        &["push", image],
        &["tls: failed to verify certificate: x509: certificate signed by unknown authority"],
    )?;
    for (host, dir) in [(one, "/etc/docker/certs.d"), (two, "/etc/skep/certs.d")] {
        host.own_etc()?;
        host.write(&format!("{dir}/{name}/ca.crt"), ca.as_bytes())?;
    }
    refused(one, &["push", image], &["no basic auth credentials"])?;
    // One whose certificate is trusted itself, without an authority, as Docker's instructions have it.
    let (cert, key, own) = self_signed(&one.dir, "10.99.0.1")?;
    let tls = RegistryOptions { tls: Some((cert, key)), ..Default::default() };
    let _own = Registry::start(one, "10.99.0.1:5001", &tls)?;
    one.docker(&["tag", image, "10.99.0.1:5001/app:1"])?;
    refused(one, &["push", "10.99.0.1:5001/app:1"], &["failed to verify certificate"])?;
    one.write("/etc/docker/certs.d/10.99.0.1:5001/ca.crt", own.as_bytes())?;
    one.docker(&["push", "10.99.0.1:5001/app:1"])?;
    one.docker(&["rmi", "10.99.0.1:5001/app:1"])?;

    // Each client keeps its credentials where the other finds them.
    let config = one.dir.join("docker-config");
    let skep = || {
        let mut command = Command::new(&one.skep);
        command.env("DOCKER_HOST", one.docker_host()).env("DOCKER_CONFIG", &config);
        command
    };
    for mut client in [one.docker_command(), skep()] {
        let out = login(&mut client, name, "wrong")?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(!out.status.success() && said.contains("401 Unauthorized"), "{said}");
    }
    for (mut client, mut other) in [(one.docker_command(), skep()), (skep(), one.docker_command())] {
        let out = login(&mut client, name, "secret")?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        ensure!(out.status.success() && said.contains("Login Succeeded"), "{said} {out:?}");
        let out = other.args(["push", image]).output()?;
        ensure!(out.status.success(), "{out:?}");
        let out = skep().args(["logout", name]).output()?;
        ensure!(out.status.success(), "{out:?}");
        refused(one, &["pull", image], &["no basic auth credentials"])?;
    }
    ensure!(login(&mut one.docker_command(), name, "secret")?.status.success(), "login");

    one.docker(&["swarm", "init", "--advertise-addr", &one.addr])?;
    join(two, &token(one, "worker")?, "10.99.0.1:2377")?;
    let sleeping = ["/bin/busybox", "sleep", "3600"];
    let first = ["service", "create", "-d", "--name", "app", "--with-registry-auth", "--mode", "global"];
    let out = one.docker_command().args(first).arg(image).args(sleeping).output()?;
    ensure!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    skep_e2e::swarm::wait_running(one, "app", 2)?;
    let spec = one.docker(&["service", "inspect", "app"])?;
    ensure!(spec.contains("10.99.0.1:5000/team/app:1@sha256:"), "{spec}");
    let raw = one.request("GET", "/v1.50/services/app", "")?.body;
    let tasks = one.request("GET", "/v1.50/tasks", "")?.body;
    for text in [&spec, &raw, &tasks] {
        // Without IDs, which may spell anything.
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() != 25);
        for word in words.map(str::to_lowercase) {
            ensure!(!word.contains("auth") && !word.contains("secret"), "{word} in {text}");
        }
    }
    one.docker(&["service", "rm", "app"])?;

    // Where no node has it any more, and without credentials, the other node cannot pull, and says why.
    let create = ["service", "create", "-d", "--name", "poor", "--constraint"];
    let on_two = format!("node.hostname=={}", two.name);
    for host in [one, two] {
        eventually("the image is gone from the node", Duration::from_secs(60), || {
            host.docker(&["rmi", "-f", host.docker(&["images", "-q"])?.trim()]).map(drop)
        })?;
    }
    let out = one.docker_command().args(create).arg(on_two).arg(image).args(sleeping).output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(said.contains("could not be accessed on a registry to record"), "{said}");
    eventually("the task is rejected", Duration::from_secs(60), || {
        let format = "{{.CurrentState}} {{.Error}}";
        let tasks = one.docker(&["service", "ps", "--no-trunc", "--format", format, "poor"])?;
        ensure!(
            tasks.contains("Rejected") && tasks.contains("No such image: 10.99.0.1:5000/team/app:1"),
            "{tasks}"
        );
        Ok(())
    })?;
    // An update with credentials puts it right.
    one.docker(&["service", "update", "-d", "--with-registry-auth", "--image", image, "poor"])?;
    wait_running_on(one, "poor", 1, &[two])?;
    lab.down()
}
