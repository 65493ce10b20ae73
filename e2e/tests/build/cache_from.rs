//! `--cache-from`: what another machine built is found by the image it pushed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skep_e2e::registry::{Registry, RegistryOptions};
use skep_e2e::swarm::{path, plain};
use skep_e2e::{Host, busybox_image};

use crate::{APPLETS, builder, cached, run};

const REGISTRY: &str = "127.0.0.1:5000";
const APP: &str = "127.0.0.1:5000/app:1";
/// Two steps that give another file each time, one that changes nothing, a directory, and a file of the context.
const TEXT: &str = "FROM bb\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nRUN true\nWORKDIR /w\nENV A=b\nCOPY a /w/a\n\
                    RUN cat /w/a /proc/sys/kernel/random/uuid > /w/later\nEXPOSE 90 80\nCMD [\"sh\"]\n";
/// Of those, the ones that might make a layer.
const STEPS: usize = 5;
/// The field that an image carries.
const FIELD: &str = "skep.buildcache.v1";

const CLIENTS: [(&str, fn(&Host) -> Command); 2] =
    [("docker", Host::docker_command), ("skep", Host::skep_command)];

fn build(
    client: fn(&Host) -> Command,
    host: &Host,
    flags: &[&str],
    context: &Path,
) -> Result<(bool, String)> {
    let mut command = client(host);
    command.arg("build").args(flags).arg(context);
    run(command)
}

/// Builds that is to succeed; what it said.
fn made(host: &Host, flags: &[&str], context: &Path) -> Result<String> {
    let (ok, said) = build(Host::skep_command, host, flags, context)?;
    ensure!(ok, "{flags:?}: {said}");
    Ok(said)
}

/// As a machine that has built nothing yet.
fn forget(host: &Host, images: &[&str]) -> Result<()> {
    host.docker(&[&["rmi", "-f"], images].concat())?;
    host.docker(&["builder", "prune", "-af"]).map(drop)
}

fn id(host: &Host, image: &str) -> Result<String> {
    host.docker(&["image", "inspect", "-f", "{{.Id}}", image])
}

fn file(host: &Host, image: &str, path: &str) -> Result<String> {
    host.docker(&["run", "--rm", image, "cat", path])
}

#[test]
fn a_machine_that_has_built_nothing_takes_the_steps_of_an_image_that_is_pushed() -> Result<()> {
    let (lab, context) = builder("bcf")?;
    let host = lab.host(1);
    let registry =
        Registry::start(host, REGISTRY, &RegistryOptions { password: true, ..Default::default() })?;
    // Either client sends what it has from its own.
    for client in [Host::docker, Host::skep] {
        client(host, &["login", "-u", "me", "-p", "secret", REGISTRY])?;
    }
    let (a, dockerfile) = (context.join("a"), context.join("Dockerfile"));
    fs::write(&dockerfile, TEXT)?;
    for (name, client) in CLIENTS {
        let build = |flags: &[&str]| {
            let (ok, said) = build(client, host, flags, &context)?;
            ensure!(ok, "{name} {flags:?}: {said}");
            Ok::<_, anyhow::Error>(said)
        };
        fs::write(&a, name)?;
        build(&["-t", APP])?;
        host.docker(&["push", "-q", APP])?;
        let (first, uuid) = (id(host, APP)?, file(host, APP, "/uuid")?);
        // Nobody names it.
        forget(host, &[APP])?;
        let said = build(&["-t", "got"])?;
        ensure!(cached(&said) == 0 && file(host, "got", "/uuid")? != uuid, "{name}: {said}");
        // All of it is there, and the image is the very same, times included.
        forget(host, &["got"])?;
        let said = build(&["-t", "got", "--cache-from", APP])?;
        ensure!(cached(&said) == STEPS && id(host, "got")? == first, "{name}: {said}");
        // The next build has it without the name, and without the image of that name.
        host.docker(&["rmi", APP])?;
        let said = build(&["-t", "got"])?;
        ensure!(cached(&said) == STEPS && id(host, "got")? == first, "{name}: {said}");
        // What changes nothing but the configuration is taken too, and the image is another.
        forget(host, &["got"])?;
        let said = build(&["-t", "got", "--label", "x=y", "--cache-from", APP])?;
        ensure!(cached(&said) == STEPS && id(host, "got")? != first, "{name}: {said}");
        // Up to the first step that is another, and no further.
        forget(host, &["got", APP])?;
        fs::write(&a, format!("{name} changed"))?;
        let said = build(&["-t", "got", "--cache-from", APP])?;
        ensure!(cached(&said) == STEPS - 2 && file(host, "got", "/uuid")? == uuid, "{name}: {said}");
        ensure!(file(host, "got", "/w/later")?.starts_with(&format!("{name} changed")), "{name}: {said}");
        // Nothing at all, and nothing is asked for, where the cache is not wanted.
        forget(host, &["got", APP])?;
        let said = build(&["-t", "got", "--no-cache", "--cache-from", APP])?;
        ensure!(cached(&said) == 0 && !said.contains("Pulling"), "{name}: {said}");
        ensure!(id(host, APP).is_err(), "{name}: it was pulled");
        // Nor where this host has all of it.
        let said = build(&["-t", "got", "--cache-from", APP])?;
        ensure!(cached(&said) == STEPS && id(host, APP).is_err(), "{name}: {said}");
        forget(host, &["got"])?;
        fs::write(&a, name)?;
        // In every form that clients have.
        let none = format!("{REGISTRY}/none:1");
        for flags in [
            &["--cache-from", &format!("type=registry,ref={APP}")][..],
            &["--cache-from", &format!("{none},{APP}")],
            &["--cache-from", &none, "--cache-from", APP],
            &[
                "--cache-from",
                &format!("type=registry,ref={none}"),
                "--cache-from",
                &format!("type=registry,ref={APP}"),
            ],
        ] {
            let said = build(&[&["-t", "got"], flags].concat())?;
            ensure!(cached(&said) == STEPS && id(host, "got")? == first, "{name} {flags:?}: {said}");
            let told = said.contains(&format!("[Warning] cache-from {none} is of no use"));
            ensure!(told == (flags.len() > 2 || flags[1].contains("none")), "{name} {flags:?}: {said}");
            forget(host, &["got", APP])?;
        }
    }
    // What is no image is refused before anything is done.
    for (name, client) in CLIENTS {
        for (given, wanted) in [
            ("type=local,src=/tmp/x", "type=local is not supported"),
            ("type=gha", "type=gha is not supported"),
            ("type=registry", "names no image"),
            ("Not/An:Image", "is no image"),
        ] {
            let (ok, said) = build(client, host, &["--cache-from", given], &context)?;
            ensure!(!ok && said.contains(wanted), "{name} {given}: {said}");
        }
    }
    // What all images have may be asked for; what none has is refused.
    made(host, &["--cache-to", "type=inline"], &context)?;
    let (ok, said) = build(Host::skep_command, host, &["--cache-to", "type=local,dest=x"], &context)?;
    ensure!(!ok && said.contains("--cache-to type=local,dest=x is not supported"), "{said}");
    host.docker(&["builder", "prune", "-af"])?;
    // A registry that does not answer is told of too.
    registry.kill(host)?;
    for (name, client) in CLIENTS {
        let (ok, said) =
            build(client, host, &["-t", name, "--no-cache=false", "--cache-from", APP], &context)?;
        let told = said
            .contains(&format!("[Warning] cache-from {APP} is of no use, and the build goes on without it"));
        ensure!(ok && told && cached(&said) == 0, "{name}: {said}");
        forget(host, &[name])?;
    }
    lab.down()
}

/// An image that is another's but for its configuration, which `change` alters; loaded as `tag`.
fn altered(host: &Host, image: &str, tag: &str, change: impl Fn(&mut Value)) -> Result<()> {
    let (saved, dir, new) =
        (host.dir.join("saved.tar"), host.dir.join(format!("of-{tag}")), host.dir.join("altered.tar"));
    host.docker(&["save", "-o", path(&saved), image])?;
    fs::create_dir_all(&dir)?;
    tar::Archive::new(fs::File::open(&saved)?).unpack(&dir)?;
    let mut manifest: Value = serde_json::from_slice(&fs::read(dir.join("manifest.json"))?)?;
    let config = dir.join(manifest[0]["Config"].as_str().context("a configuration")?);
    let mut config: Value = serde_json::from_slice(&fs::read(config)?)?;
    change(&mut config);
    fs::write(dir.join("config.json"), serde_json::to_vec(&config)?)?;
    manifest[0]["Config"] = json!("config.json");
    manifest[0]["RepoTags"] = json!([format!("{tag}:latest")]);
    fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest)?)?;
    // What an OCI archive has beside would say something else.
    fs::remove_file(dir.join("index.json"))?;
    let mut archive = tar::Builder::new(fs::File::create(&new)?);
    archive.append_dir_all(".", &dir)?;
    archive.finish()?;
    host.docker(&["load", "-i", path(&new)]).map(drop)
}

#[test]
fn what_an_image_says_of_its_steps_is_checked() -> Result<()> {
    let (lab, context) = builder("bcx")?;
    let host = lab.host(1);
    fs::write(context.join("Dockerfile"), TEXT)?;
    fs::write(context.join("a"), "a")?;
    made(host, &["-t", "app"], &context)?;
    let (first, uuid) = (id(host, "app")?, file(host, "app", "/uuid")?);
    let steps = |config: &Value| config[FIELD].as_array().map_or(0, Vec::len);
    altered(host, "app", "same", |c| assert_eq!(steps(c), STEPS, "{c}"))?;
    altered(host, "app", "none", |c| drop(c.as_object_mut().and_then(|c| c.remove(FIELD))))?;
    altered(host, "app", "text", |c| c[FIELD] = json!("AAAA"))?;
    altered(host, "app", "beyond", |c| c[FIELD][0]["layers"] = json!(1000))?;
    altered(host, "app", "negative", |c| c[FIELD][0]["history"] = json!(-1))?;
    altered(host, "app", "huge", |c| {
        let step = c[FIELD][0].clone();
        c[FIELD] = Value::Array(vec![step; 5000]);
    })?;
    // One that says of its first step that it gave what the last did.
    altered(host, "app", "swapped", |c| c[FIELD][0]["layers"] = c[FIELD][STEPS - 1]["layers"].clone())?;
    // Its steps are true; what else it says is another's.
    altered(host, "app", "other", |c| {
        c["config"]["Cmd"] = json!(["evil"]);
        c["history"].as_array_mut().expect("lines").iter_mut().for_each(|l| l["created"] = json!("never"));
    })?;
    made(host, &["-t", "squashed", "--squash"], &context)?;
    made(host, &["-t", "silent", "--build-arg", "BUILDKIT_INLINE_CACHE=0"], &context)?;
    let (ok, said) = build(Host::skep_command, host, &["--build-arg", "BUILDKIT_INLINE_CACHE=x"], &context)?;
    ensure!(!ok && said.contains("BUILDKIT_INLINE_CACHE: want true or false"), "{said}");
    let container = host.docker(&["create", "app"])?;
    host.docker(&["commit", container.trim(), "committed"])?;
    host.docker(&["rm", container.trim()])?;
    let shown =
        host.docker(&["image", "inspect", "app"])? + &host.docker(&["history", "--no-trunc", "app"])?;
    ensure!(!shown.contains("buildcache"), "{shown}");
    let nothing = "says nothing of the steps";
    for (name, told) in [
        ("bb", nothing),
        ("none", nothing),
        ("squashed", nothing),
        ("silent", nothing),
        ("committed", nothing),
        ("text", "cannot be read"),
        ("negative", "cannot be read"),
        ("beyond", "step 0 names 1000 layers"),
        ("huge", "the limit is 4096"),
    ] {
        host.docker(&["builder", "prune", "-af"])?;
        let said = made(host, &["-t", "got", "--cache-from", name], &context)?;
        let warned = said.lines().any(|l| {
            l.starts_with(&format!(
                "[Warning] cache-from {name} is of no use, and the build goes on without it"
            )) && l.contains(told)
        });
        ensure!(warned && cached(&said) == 0 && file(host, "got", "/uuid")? != uuid, "{name}: {said}");
    }
    // What lies of the layers below a step is not believed.
    host.docker(&["builder", "prune", "-af"])?;
    let said = made(host, &["-t", "got", "--cache-from", "swapped"], &context)?;
    ensure!(cached(&said) == 0 && file(host, "got", "/uuid")? != uuid, "{said}");
    // Nor is anything but the steps taken of one.
    host.docker(&["builder", "prune", "-af"])?;
    let said = made(host, &["-t", "got", "--cache-from", "other"], &context)?;
    ensure!(cached(&said) == STEPS && file(host, "got", "/uuid")? == uuid, "{said}");
    let got = host.docker(&["image", "inspect", "-f", "{{json .}}", "got"])?;
    ensure!(!got.contains("evil") && !got.contains("never") && id(host, "got")? != first, "{got}");
    // The others come behind one that is right; what was loaded from an archive is as good.
    host.docker(&["builder", "prune", "-af"])?;
    host.docker(&["rmi", "app"])?;
    let said = made(host, &["-t", "got", "--cache-from", "text,swapped,same"], &context)?;
    ensure!(cached(&said) == STEPS && file(host, "got", "/uuid")? == uuid, "{said}");
    // An image for another platform is of no use.
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY a /a\n")?;
    made(host, &["-t", "127.0.0.1:1/plain"], &context)?;
    host.docker(&["builder", "prune", "-af"])?;
    let flags = ["-t", "got", "--platform", "linux/s390x", "--cache-from", "127.0.0.1:1/plain"];
    let said = made(host, &flags, &context)?;
    ensure!(
        cached(&said) == 0 && said.contains("is of linux/amd64") && said.contains("is of no use"),
        "{said}"
    );
    lab.down()
}

#[test]
fn steps_are_known_by_the_same_on_another_host_and_from_another_client() -> Result<()> {
    let lab = plain("bch", 2)?;
    let (one, two) = (lab.host(1), lab.host(2));
    let (busybox, saved) = (one.dir.join("busybox.tar"), one.dir.join("saved.tar"));
    busybox_image(APPLETS, &busybox)?;
    one.docker(&["import", path(&busybox), "bb"])?;
    let mut contexts = Vec::new();
    for host in [one, two] {
        let context = host.dir.join("context");
        fs::create_dir_all(&context)?;
        fs::write(context.join("a"), "a")?;
        // Secrets are no part of it, whatever they are.
        fs::write(host.dir.join("secret"), &host.name)?;
        let text = TEXT.replace("RUN true", "RUN --mount=type=secret,id=s cat /run/secrets/s");
        fs::write(context.join("Dockerfile"), text)?;
        contexts.push(context);
    }
    let secret = |host: &Host| format!("id=s,src={}", host.dir.join("secret").display());
    made(one, &["-t", "app", "--secret", &secret(one)], &contexts[0])?;
    one.docker(&["save", "-o", path(&saved), "bb", "app"])?;
    two.docker(&["load", "-i", path(&saved)])?;
    let said = made(two, &["-t", "got", "--secret", &secret(two), "--cache-from", "app"], &contexts[1])?;
    ensure!(cached(&said) == STEPS && id(two, "got")? == id(one, "app")?, "{said}");
    // Docker's client sends no secret, and a step that is there needs none.
    two.docker(&["builder", "prune", "-af"])?;
    let (_, said) = build(Host::docker_command, two, &["--cache-from", "app"], &contexts[1])?;
    ensure!(cached(&said) == STEPS, "{said}");
    lab.down()
}

#[test]
fn two_hosts_without_a_cache_make_the_same_image_and_push_the_same_bytes() -> Result<()> {
    let lab = plain("bsame", 2)?;
    let (one, two) = (lab.host(1), lab.host(2));
    let (busybox, saved) = (one.dir.join("busybox.tar"), one.dir.join("saved.tar"));
    busybox_image(APPLETS, &busybox)?;
    one.docker(&["import", path(&busybox), "bb"])?;
    one.docker(&["save", "-o", path(&saved), "bb"])?;
    two.docker(&["load", "-i", path(&saved)])?;
    let text = "FROM bb AS made\nRUN mkdir -p /d/e && echo x > /d/e/x && ln -s x /d/y\nFROM bb\n\
                COPY --from=made /d /d\nCOPY . /c/\nRUN ls -lR /c > /listed && cat /c/big /c/big > /bigger\n\
                WORKDIR /w\nENV A=b\nLABEL c=d e=f\nEXPOSE 90 80\nVOLUME /v /u\n";
    // More than a compressor takes at once, of what can and cannot be made shorter.
    let big: Vec<u8> = (0..3_000_000_u32)
        .map(|n| if n % 7 == 0 { 0 } else { (n.wrapping_mul(2_654_435_761) >> 24) as u8 })
        .collect();
    let mut made = Vec::new();
    for (n, host) in [one, two].into_iter().enumerate() {
        let context = host.dir.join("context");
        fs::create_dir_all(context.join("sub"))?;
        fs::write(context.join("Dockerfile"), text)?;
        // Neither when nor in which order files are written counts.
        let mut files = [("a", &b"a"[..]), ("sub/b", b"b"), ("sub/c", b"c"), ("big", &big)];
        if n == 1 {
            files.reverse();
        }
        for (name, content) in files {
            fs::write(context.join(name), content)?;
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000 + 1000 * n as u64);
            fs::File::options().write(true).open(context.join(name))?.set_modified(written)?;
        }
        let _registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
        let (_, client) = CLIENTS[n];
        let flags = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-t", APP];
        let (ok, said) = build(client, host, &flags, &context)?;
        ensure!(ok && cached(&said) == 0, "{said}");
        let pushed = host.docker(&["push", APP])?;
        let digest = pushed.lines().find_map(|line| line.split_once("digest: "));
        made.push((id(host, APP)?, digest.with_context(|| pushed.clone())?.1.to_owned()));
    }
    ensure!(made[0] == made[1], "{made:?}");
    lab.down()
}

#[test]
fn stages_and_later_builds_take_what_an_image_has_of_them() -> Result<()> {
    let (lab, context) = builder("bcm")?;
    let host = lab.host(1);
    let uuid = "cat /proc/sys/kernel/random/uuid";
    let text = format!(
        "FROM bb AS builder\nRUN {uuid} > /made\nFROM bb AS below\nRUN {uuid} > /below\nFROM below\n\
         COPY --from=builder /made /made\nRUN {uuid} > /own\n"
    );
    fs::write(context.join("Dockerfile"), text)?;
    made(host, &["-t", "app"], &context)?;
    made(host, &["-t", "app:builder", "--target", "builder"], &context)?;
    let first = id(host, "app")?;
    // The stage that the last begins with is in its image. The other is not: it runs again, and what is copied of it is new.
    host.docker(&["builder", "prune", "-af"])?;
    let said = made(host, &["-t", "got", "--cache-from", "app"], &context)?;
    ensure!(cached(&said) == 1 && file(host, "got", "/below")? == file(host, "app", "/below")?, "{said}");
    ensure!(file(host, "got", "/made")? != file(host, "app", "/made")?, "{said}");
    // Named too, all is there.
    host.docker(&["builder", "prune", "-af"])?;
    let said = made(host, &["-t", "got", "--cache-from", "app:builder,app"], &context)?;
    ensure!(cached(&said) == 4 && id(host, "got")? == first, "{said}");
    // An image that is built on one carries its own steps, not those of its base.
    fs::write(context.join("Dockerfile"), format!("FROM app\nRUN {uuid} > /more\n"))?;
    made(host, &["-t", "more"], &context)?;
    let more = file(host, "more", "/more")?;
    host.docker(&["builder", "prune", "-af"])?;
    let said = made(host, &["-t", "got", "--cache-from", "more"], &context)?;
    ensure!(
        cached(&said) == 1 && file(host, "got", "/more")? == more && id(host, "got")? == id(host, "more")?,
        "{said}"
    );
    lab.down()
}

#[test]
fn a_newer_image_is_asked_for_where_that_is_wanted() -> Result<()> {
    let (lab, context) = builder("bcp")?;
    let host = lab.host(1);
    let registry = Registry::start(host, REGISTRY, &RegistryOptions::default())?;
    let text = |which: &str| format!("FROM scratch\nCOPY {which} /which\n");
    for which in ["older", "newer"] {
        fs::write(context.join(which), which)?;
        fs::write(context.join("Dockerfile"), text(which))?;
        made(host, &["-t", which, "-t", APP], &context)?;
        host.docker(&["push", "-q", APP])?;
    }
    host.docker(&["tag", "older", APP])?;
    forget(host, &["newer"])?;
    let said = made(host, &["-t", "got", "--cache-from", APP], &context)?;
    ensure!(cached(&said) == 0 && !said.contains("[Warning]"), "{said}");
    forget(host, &["got"])?;
    let said = made(host, &["-t", "got", "--pull", "--cache-from", APP], &context)?;
    ensure!(cached(&said) == 1 && !said.contains("[Warning]"), "{said}");
    // It was named as a cache, and not to be replaced.
    ensure!(id(host, APP)? == id(host, "older")?, "the name is that of another image now");
    // What is here counts where nothing answers.
    host.docker(&["pull", "-q", APP])?;
    forget(host, &["got"])?;
    registry.kill(host)?;
    let said = made(host, &["-t", "got", "--pull", "--cache-from", APP], &context)?;
    ensure!(
        cached(&said) == 1 && said.contains(&format!("[Warning] cache-from {APP} is taken as it is here")),
        "{said}"
    );
    lab.down()
}
