//! A registry on the same content as a daemon of its host: what the daemon has is not sent, lies once, and each side removes
//! only its own name of it.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_e2e::swarm::{LONG, begun, binaries, path, plain, refused};
use skep_e2e::{Host, eventually};

use crate::access::{Signer, by_tokens, claims};
use crate::clients::{build, context, forget, pushed};
use crate::server::{Served, digest, manifest, random};

/// Where a host's daemon has its blobs, or a registry its own.
fn blobs(root: &Path) -> PathBuf {
    root.join("blobs/sha256")
}

/// Inode, links and bytes of each blob, by hex digest, in a directory that the host sees.
fn files(host: &Host, root: &Path) -> Result<BTreeMap<String, (u64, u64, u64)>> {
    let listed = host.exec(&["find", path(&blobs(root)), "-type", "f", "-printf", "%f %i %n %s\n"])?;
    let line = |line: &str| -> Option<(String, (u64, u64, u64))> {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse::<u64>().ok();
        Some((name, (number()?, number()?, number()?)))
    };
    listed.lines().map(|l| line(l).with_context(|| l.to_owned())).collect()
}

/// The layers' digests of an image in a registry of the host.
fn layers(host: &Host, name: &str, tag: &str) -> Result<Vec<String>> {
    let text = host.exec(&["curl", "-sS", "--fail", &format!("http://{name}/manifests/{tag}")])?;
    let read: Value = serde_json::from_str(&text)?;
    let layers = read["layers"].as_array().context("layers")?;
    layers.iter().map(|l| Ok(l["digest"].as_str().context("a digest")?.to_owned())).collect()
}

/// Requests that begin an upload, or go on with one.
fn uploads(log: &str) -> usize {
    log.lines().filter(|l| l.contains("/blobs/uploads/") && l.contains(" request")).count()
}

/// Collects a registry's garbage on the host, and shares with its daemon what lies twice.
fn collect(host: &Host, data: &Path, more: &[&str]) -> Result<String> {
    let root = host.dir.join("data");
    let gc =
        [path(&host.skep), "registry", "gc", "--data-dir", path(data), "--daemon-data-root", path(&root)];
    host.exec(&[&gc[..], more].concat())
}

#[test]
fn what_a_host_has_is_pushed_without_sending_it_and_lies_once() -> Result<()> {
    let lab = plain("regd", 1)?;
    let one = lab.host(1);
    let root = one.dir.join("data");
    let registry = Served::start_on(one, "127.0.0.1:5000", &["--daemon-data-root", path(&root)])?;
    let data = one.dir.join("skep-registry-127-0-0-1-5000");
    let dir = one.dir.join("context");
    context(&dir, 3 << 20)?;
    let image = "127.0.0.1:5000/team/app:1";
    build(one, &dir, image)?;
    let id = one.docker(&["inspect", "-f", "{{.Id}}", image])?.trim().to_owned();

    // What was built here was never an archive before this.
    let said = one.docker(&["push", image])?;
    ensure!(said.contains(": Layer already exists") && !said.contains(": Pushed"), "{said}");
    let first = pushed(&said)?;
    let log = registry.log()?;
    ensure!(uploads(&log) == 0 && log.contains("blob taken over from the daemon"), "{log}");
    ensure!(log.contains("linked=true") && !log.contains("linked=false"), "{log}");
    let named = layers(one, "127.0.0.1:5000/v2/team/app", "1")?;
    ensure!(named.len() == 2, "{named:?}");
    let hex = |digest: &String| digest.trim_start_matches("sha256:").to_owned();
    let parts: Vec<String> = named.iter().chain([&id]).map(hex).collect();
    let (theirs, ours) = (files(one, &root)?, files(one, &data)?);
    for part in &parts {
        let (there, here) = (theirs.get(part), ours.get(part));
        ensure!(there.is_some() && there == here && there.is_some_and(|f| f.1 == 2), "{there:?} {here:?}");
    }
    // No archive is kept beside that which is not compressed; what else there is, are configurations of builds.
    ensure!(theirs.values().filter(|f| f.2 > 4096).count() == named.len(), "{theirs:?}");

    // Another repository, and another client that has it from another registry.
    let other = "127.0.0.1:5000/other/app:1";
    one.docker(&["tag", image, other])?;
    ensure!(pushed(&one.skep(&["push", other])?)? == first);
    let apart = Served::start_on(one, "127.0.0.1:5002", &[])?;
    one.docker(&["tag", image, "127.0.0.1:5002/team/app:1"])?;
    let said = one.docker(&["push", "127.0.0.1:5002/team/app:1"])?;
    ensure!(said.contains(": Pushed") && pushed(&said)? == first, "{said}");
    ensure!(uploads(&apart.log()?) > 0);
    let insecure =
        ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"];
    let (from, to) = ("docker://127.0.0.1:5002/team/app:1", "docker://127.0.0.1:5000/skopeo/app:1");
    one.exec(&[&insecure[..], &[from, to]].concat())?;
    ensure!(uploads(&registry.log()?) == 0, "{}", registry.log()?);

    // podman mounts what it knows to be compressed elsewhere.
    let policy = one.dir.join("policy.json");
    std::fs::write(&policy, "{\"default\":[{\"type\":\"insecureAcceptAnything\"}]}")?;
    let (storage, run) = (one.dir.join("podman"), one.dir.join("podman-run"));
    let podman = |args: &[&str]| {
        let global = ["podman", "--root", path(&storage), "--runroot", path(&run), "--storage-driver", "vfs"];
        let verify = ["--signature-policy", path(&policy), "--tls-verify=false", "-q"];
        one.exec(&[&global, &args[..1], &verify[..], &args[1..]].concat())
    };
    podman(&["pull", "127.0.0.1:5002/team/app:1"])?;
    podman(&["push", "127.0.0.1:5002/team/app:1", "127.0.0.1:5000/podman/app:1"])?;
    let log = registry.log()?;
    ensure!(log.contains("path=\"/v2/podman/app/manifests/1\"") && !log.contains("method=PATCH"), "{log}");

    // The daemon has it no more, and the registry has; what comes back is another file.
    forget(one)?;
    ensure!(files(one, &root)?.is_empty(), "{:?}", files(one, &root)?);
    let said = one.docker(&["pull", image])?;
    ensure!(said.contains(&first), "{said}");
    ensure!(one.docker(&["run", "--rm", image])? == "hello\n");
    let (theirs, ours) = (files(one, &root)?, files(one, &data)?);
    ensure!(parts.iter().all(|p| theirs[p].0 != ours[p].0), "{theirs:?} {ours:?}");
    let would = collect(one, &data, &["--dry-run"])?;
    ensure!(would.contains("would be shared with the daemon"), "{would}");
    ensure!(files(one, &data)? == ours, "a dry run changes nothing");
    let text = collect(one, &data, &["--format", "json"])?;
    let found: Value = serde_json::from_str(&text)?;
    let twice: Vec<_> = ours.iter().filter(|(name, _)| theirs.contains_key(*name)).collect();
    let bytes: u64 = twice.iter().map(|(_, f)| f.2).sum();
    ensure!(found["shared"]["bytes"] == json!(bytes) && bytes > 3 << 20, "{text} {bytes}");
    ensure!(found["shared"]["blobs"].as_array().map(Vec::len) == Some(twice.len()), "{text}");
    let now = files(one, &data)?;
    for (name, _) in &twice {
        ensure!(now[*name] == (theirs[*name].0, 2, theirs[*name].2), "{now:?} {theirs:?}");
    }
    let again = collect(one, &data, &[])?;
    ensure!(again.ends_with("\n0 blobs shared with the daemon, 0B saved\n"), "{again}");

    // The registry has it no more, and the daemon has.
    for name in ["team/app", "other/app", "skopeo/app", "podman/app"] {
        let url = format!("http://127.0.0.1:5000/v2/{name}/manifests/1");
        one.exec(&["curl", "-sS", "--fail", "-X", "DELETE", &url])?;
    }
    collect(one, &data, &["--grace", "0s", "--delete-untagged"])?;
    ensure!(files(one, &data)?.is_empty(), "{:?}", files(one, &data)?);
    ensure!(one.docker(&["run", "--rm", image])? == "hello\n");
    // What came compressed is sent on as it came.
    let said = one.docker(&["push", image])?;
    ensure!(said.contains(": Layer already exists") && pushed(&said)? == first, "{said}");
    ensure!(!registry.log()?.contains("ERROR"), "{}", registry.log()?);
    lab.down()
}

#[test]
fn what_is_damaged_is_sent_anew_and_another_file_system_gets_copies() -> Result<()> {
    let lab = plain("rege", 1)?;
    let one = lab.host(1);
    let root = one.dir.join("data");
    let apart = Served::start_on(one, "127.0.0.1:5002", &[])?;
    let more = ["--daemon-data-root", path(&root)];
    let registry = Served::start_on(one, "127.0.0.1:5000", &more)?;
    let dir = one.dir.join("context");
    context(&dir, 3 << 20)?;
    let (there, here) = ("127.0.0.1:5002/team/app:1", "127.0.0.1:5000/team/app:1");
    one.skep(&["build", "-q", "-t", there, "-t", here, path(&dir)])?;
    let first = pushed(&one.docker(&["push", there])?)?;
    let named = layers(one, "127.0.0.1:5002/v2/team/app", "1")?;
    let hurt = blobs(&root).join(named[1].trim_start_matches("sha256:"));
    let mut bytes = std::fs::read(&hurt)?;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&hurt, &bytes)?;
    // The registry does not take it from the disk, nor from the wire; the daemon finds out, and makes it anew.
    refused(one, &["push", here], &[&named[1], "made anew when the image is pushed again"])?;
    let log = registry.log()?;
    ensure!(log.contains("the daemon's file of this blob is not what its digest says"), "{log}");
    ensure!(uploads(&log) > 0, "it was sent: {log}");
    let ours = blobs(&one.dir.join("skep-registry-127-0-0-1-5000"));
    ensure!(!ours.join(hurt.file_name().context("a name")?).exists(), "it was taken");
    ensure!(pushed(&one.docker(&["push", here])?)? == first);
    let made = std::fs::metadata(&hurt)?;
    ensure!(made.nlink() == 2 && digest(&std::fs::read(&hurt)?) == named[1], "{made:?}");

    // A restart knows what went out, and has nothing to make.
    one.stop_daemon("-TERM")?;
    one.start_daemon()?;
    ensure!(std::fs::metadata(&hurt)?.ino() == made.ino());
    ensure!(pushed(&one.docker(&["push", there])?)? == first);
    ensure!(std::fs::metadata(&hurt)?.ino() == made.ino());

    let far = one.dir.join("skep-registry-127-0-0-1-5001");
    std::fs::create_dir_all(&far)?;
    one.exec(&["mount", "-t", "tmpfs", "tmpfs", path(&far)])?;
    let copies = Served::start_on(one, "127.0.0.1:5001", &more)?;
    one.docker(&["tag", here, "127.0.0.1:5001/team/app:1"])?;
    let said = one.docker(&["push", "127.0.0.1:5001/team/app:1"])?;
    ensure!(said.contains(": Layer already exists") && pushed(&said)? == first, "{said}");
    let log = copies.log()?;
    ensure!(uploads(&log) == 0 && log.contains("linked=false") && !log.contains("linked=true"), "{log}");
    ensure!(log.matches("cannot be linked to, so they are copied").count() == 1, "{log}");
    ensure!(files(one, &far)?.values().all(|f| f.1 == 1), "{:?}", files(one, &far)?);
    let kept = collect(one, &far, &[])?;
    ensure!(kept.ends_with("\n0 blobs shared with the daemon, 0B saved\n"), "{kept}");
    forget(one)?;
    ensure!(one.docker(&["run", "--rm", "127.0.0.1:5001/team/app:1"])? == "hello\n");
    ensure!(!apart.log()?.contains("ERROR"), "{}", apart.log()?);
    lab.down()
}

/// As README says it: all in one mount is linked, a mount of the daemon's blobs beside a volume gets copies.
#[test]
fn a_service_is_on_the_content_of_its_hosts_daemon() -> Result<()> {
    let lab = begun("regf", 1)?;
    let one = lab.host(1);
    let root = one.dir.join("data");
    let dir = one.dir.join("context");
    context(&dir, 1 << 20)?;
    one.skep(&["build", "-q", "-t", "app", path(&dir)])?;
    let all = format!("type=bind,src={},dst=/skep-data", path(&root));
    let theirs = format!("type=bind,src={},dst=/daemon/blobs,ro", path(&root.join("blobs")));
    let volume = "type=volume,src=images,dst=/data".to_owned();
    for (name, port, mounts, data, daemon, linked) in [
        ("linked", 5001, vec![all], "/skep-data/registry", "/skep-data", true),
        ("copied", 5002, vec![theirs, volume], "/data", "/daemon", false),
    ] {
        let published = format!("{port}:5000");
        let mut create = vec!["service", "create", "-d", "--name", name, "-p", &published];
        create.extend(mounts.iter().flat_map(|m| ["--mount", m]));
        create.extend(["whoami:1", "/skep", "registry", "--listen", ":5000", "--plain-http"]);
        create.extend(["--data-dir", data, "--daemon-data-root", daemon]);
        one.docker(&create)?;
        let url = format!("http://127.0.0.1:{port}/v2/");
        eventually("the registry answers", LONG, || one.exec(&["curl", "-sS", "--fail", &url]).map(drop))?;
        let image = format!("127.0.0.1:{port}/team/app:1");
        one.docker(&["tag", "app", &image])?;
        let said = one.docker(&["push", &image])?;
        ensure!(said.contains(": Layer already exists") && !said.contains(": Pushed"), "{said}");
        // It logs on its standard error, and so does the client.
        let log = one.docker_command().args(["service", "logs", name]).output()?;
        let log = String::from_utf8(log.stderr)?;
        ensure!(log.contains(&format!("linked={linked}")), "{log}");
        ensure!(!log.contains(&format!("linked={}", !linked)) && uploads(&log) == 0, "{log}");
    }
    // The registry's directory is no business of the daemon's.
    one.stop_daemon("-TERM")?;
    one.start_daemon()?;
    let links = files(one, &root.join("registry"))?.values().filter(|f| f.1 == 2).count();
    ensure!(links == 3, "two layers and a configuration: {links}");
    lab.down()
}

/// A directory like a daemon's data root, with these blobs in it.
fn daemon_root(dir: &Path, content: &[&[u8]]) -> Result<PathBuf> {
    let root = dir.join("daemon");
    std::fs::create_dir_all(blobs(&root))?;
    for bytes in content {
        std::fs::write(file(&root, bytes), bytes)?;
    }
    Ok(root)
}

fn file(root: &Path, bytes: &[u8]) -> PathBuf {
    blobs(root).join(digest(bytes).trim_start_matches("sha256:"))
}

#[test]
fn only_who_may_push_finds_what_the_daemon_has() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (config, layer, mounted) = (b"{}".as_slice(), random(100_000), random(100_000));
    let root = daemon_root(dir.path(), &[config, &layer, &mounted])?;
    let signer = Signer::new()?;
    let set = dir.path().join("jwks.json");
    std::fs::write(&set, signer.set().to_string())?;
    let args = [by_tokens(&set), vec!["--daemon-data-root", path(&root)]].concat();
    let r = Served::start(&dir.path().join("data"), &args)?;
    let head = json!({ "alg": "ES256", "kid": "one", "typ": "JWT" });
    let token = |actions: &[&str]| {
        let grant = |name: &str| json!({ "type": "repository", "name": name, "actions": actions });
        signer.sign(&head, &claims(json!([grant("a"), grant("b")])))
    };
    let (pull, push) = (token(&["pull"])?, token(&["pull", "push"])?);
    let blob = |bytes: &[u8]| format!("/v2/a/blobs/{}", digest(bytes));
    for method in ["HEAD", "GET"] {
        let answer = r.ask(method, &blob(&layer), &[&pull], b"")?;
        ensure!(answer.status == 404, "{method}: {answer:?}");
    }
    // Reading changes nothing, whoever reads.
    ensure!(r.ask("GET", &blob(&layer), &[&push], b"")?.status == 404);
    ensure!(r.ask("HEAD", &blob(&layer), &[&push], b"")?.status == 200);
    ensure!(r.ask("GET", &blob(&layer), &[&pull], b"")?.body == layer, "it is the repository's now");
    let elsewhere = format!("/v2/b/blobs/{}", digest(&layer));
    ensure!(r.ask("HEAD", &elsewhere, &[&pull], b"")?.status == 404, "and no other's");
    // A mount, without `from` and with one that has it not.
    for from in ["", "&from=b"] {
        let url = format!("/v2/a/blobs/uploads/?mount={}{from}", digest(&mounted));
        let answer = r.ask("POST", &url, &[&push], b"")?;
        ensure!(answer.status == 201, "{answer:?}");
        ensure!(answer.header("location") == Some(&blob(&mounted)), "{answer:?}");
        let none = format!("/v2/a/blobs/uploads/?mount={}{from}", digest(b"nowhere"));
        ensure!(r.ask("POST", &none, &[&push], b"")?.status == 202);
        let odd = format!("/v2/a/blobs/uploads/?mount=sha256:../../x{from}");
        ensure!(r.ask("POST", &odd, &[&push], b"")?.code() == "DIGEST_INVALID");
    }
    // A manifest that names what nobody asked for before.
    let text = manifest(config, &layer);
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json";
    let put = |name: &str, token: &str| {
        r.ask("PUT", &format!("/v2/{name}/manifests/1"), &[kind, token], text.to_string().as_bytes())
    };
    ensure!(put("b", &pull)?.status == 401);
    ensure!(r.ask("HEAD", &elsewhere, &[&pull], b"")?.status == 404);
    ensure!(put("b", &push)?.status == 201);
    ensure!(r.ask("GET", &elsewhere, &[&pull], b"")?.body == layer);
    // The collector leaves what was taken over just now, however old the daemon's file is.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(9000);
    let late = random(1000);
    std::fs::write(file(&root, &late), &late)?;
    std::fs::File::open(file(&root, &late))?.set_modified(old)?;
    ensure!(r.ask("HEAD", &blob(&late), &[&push], b"")?.status == 200);
    let mut gc = Command::new(binaries()?.0);
    let out = gc.args(["registry", "gc", "--data-dir"]).arg(dir.path().join("data")).output()?;
    ensure!(out.status.success() && r.ask("HEAD", &blob(&late), &[&pull], b"")?.status == 200, "{out:?}");
    Ok(())
}

#[test]
fn nothing_but_the_right_bytes_is_taken_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let right = random(100_000);
    let root = daemon_root(dir.path(), &[&right])?;
    let data = dir.path().join("data");
    let r = Served::start(&data, &["--daemon-data-root", path(&root)])?;
    let (tampered, linked) = (random(100_000), random(100_000));
    let mut flipped = tampered.clone();
    flipped[50_000] ^= 1;
    std::fs::write(file(&root, &tampered), &flipped)?;
    let secret = dir.path().join("secret");
    std::fs::write(&secret, &linked)?;
    symlink(&secret, file(&root, &linked))?;
    let head = |r: &Served, bytes: &[u8]| -> Result<u16> {
        Ok(r.ask("HEAD", &format!("/v2/a/blobs/{}", digest(bytes)), &[], b"")?.status)
    };
    for bytes in [&tampered, &linked] {
        ensure!(head(&r, bytes)? == 404);
        r.push_blob("a", bytes)?;
        ensure!(r.ask("GET", &format!("/v2/a/blobs/{}", digest(bytes)), &[], b"")?.body == *bytes);
    }
    ensure!(std::fs::read(file(&root, &tampered))? == flipped, "the daemon's file is left alone");
    ensure!(r.log()?.contains("is not what its digest says: it is left alone"), "{}", r.log()?);
    ensure!(head(&r, &right)? == 200);
    ensure!(std::fs::read_dir(data.join("tmp"))?.count() == 0, "something is left");

    // Nothing is taken where nothing may change.
    let still =
        Served::start(&dir.path().join("still"), &["--read-only", "--daemon-data-root", path(&root)])?;
    ensure!(head(&still, &right)? == 404);
    // A mirror asks whether the other registry has it, and has it from here.
    let upstream = Served::start(&dir.path().join("upstream"), &[])?;
    upstream.push_blob("a", &right)?;
    let of = format!("http://{}", upstream.0);
    let mirror =
        Served::start(&dir.path().join("mirror"), &["--mirror-of", &of, "--daemon-data-root", path(&root)])?;
    let url = format!("/v2/a/blobs/{}", digest(&right));
    ensure!(mirror.ask("GET", &url, &[], b"")?.body == right);
    ensure!(!upstream.log()?.contains("method=GET"), "{}", upstream.log()?);
    ensure!(mirror.log()?.contains("linked=true"), "{}", mirror.log()?);
    let unknown = format!("/v2/b/blobs/{}", digest(&right));
    ensure!(mirror.ask("GET", &unknown, &[], b"")?.status == 404, "the other registry has it not there");
    Ok(())
}

#[test]
fn a_data_root_that_cannot_be_used_is_refused_at_the_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let root = daemon_root(dir.path(), &[])?;
    std::fs::set_permissions(blobs(&root), PermissionsExt::from_mode(0o700))?;
    let data = dir.path().join("data");
    std::fs::create_dir(&data)?;
    std::os::unix::fs::chown(&data, Some(65534), Some(65534))?;
    // Where another user can run it.
    let skep = dir.path().join("skep");
    std::fs::copy(binaries()?.0, &skep)?;
    let said = |root: &Path, user: u32| -> Result<String> {
        let mut command = Command::new(&skep);
        command.args([
            "registry",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            path(&data),
            "--daemon-data-root",
        ]);
        let out = command.arg(root).uid(user).gid(user).output()?;
        ensure!(!out.status.success(), "{out:?}");
        Ok(String::from_utf8(out.stderr)?)
    };
    let words = said(&root, 65534)?;
    ensure!(words.contains("permission denied") && words.contains("run the registry as that one"), "{words}");
    let words = said(&dir.path().join("none"), 0)?;
    ensure!(words.contains("no such file or directory") && words.contains("--data-root"), "{words}");
    let words = said(&data, 0)?;
    ensure!(words.contains("is the registry's own directory"), "{words}");
    Ok(())
}
