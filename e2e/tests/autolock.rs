//! Autolock: the keys of managers are on disk only sealed by the swarm's unlock key, and a manager that starts again
//! waits for it, while what runs there goes on.

use anyhow::{Result, bail, ensure};
use skep_e2e::swarm::{
    LONG, create, hosts, join, nodes_are, refused, token, unlock, wait_empty, wait_running, within,
};
use skep_e2e::{Host, Lab, eventually};

const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. \
                      Please use \"docker swarm unlock\" to unlock it.";

fn not_unlocked(host: &Host, key: &str, says: &str) -> Result<()> {
    let Err(e) = unlock(host, key) else { bail!("{key} was taken") };
    ensure!(format!("{e}").contains(says), "{e} should say {says:?}");
    Ok(())
}

fn key(host: &Host, more: &[&str]) -> Result<String> {
    let args = [&["swarm", "unlock-key", "-q"][..], more].concat();
    let key = host.docker(&args)?.trim().to_owned();
    ensure!(key.starts_with("SWMKEY-1-") && key.len() == 52, "{key}");
    Ok(key)
}

fn state(host: &Host) -> Result<String> {
    Ok(host.docker(&["info", "-f", "{{.Swarm.LocalNodeState}}"])?.trim().to_owned())
}

/// Waits until the keys on a host's disk are sealed, or readable.
fn keys_are(host: &Host, sealed: bool) -> Result<()> {
    let dir = host.dir.join("data/swarm");
    eventually(&format!("the keys of host {} are sealed: {sealed}", host.number), LONG, || {
        let node = std::fs::read_to_string(dir.join("identity/node.pem"))?;
        ensure!(node.contains("PRIVATE KEY") != sealed && node.contains("SEALED KEY") == sealed, "{node}");
        match std::fs::read(dir.join("manager/kek")) {
            Ok(kek) => ensure!(kek.starts_with(b"SKEPKEK1") && (kek.len() > 49) == sealed, "{kek:?}"),
            Err(e) => ensure!(!sealed, "{e}"),
        }
        Ok(())
    })
}

fn restart(lab: &mut Lab, number: u32) -> Result<()> {
    lab.host(number).stop_daemon("-KILL")?;
    lab.host(number).start_daemon()
}

#[test]
fn a_manager_that_starts_again_waits_for_the_unlock_key() -> Result<()> {
    let mut lab = hosts("lock", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    let said = one.docker(&["swarm", "init", "--autolock", "--advertise-addr", &one.addr])?;
    let first = key(one, &[])?;
    ensure!(said.contains("To unlock a swarm manager after it restarts") && said.contains(&first), "{said}");
    keys_are(one, true)?;
    join(two, &token(one, "manager")?, "10.99.0.1:2377")?;
    join(three, &token(one, "worker")?, "10.99.0.1:2377")?;
    keys_are(two, true)?;
    keys_are(three, false)?;
    one.docker(&["node", "promote", &three.name])?;
    nodes_are(one, "three managers", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    keys_are(three, true)?;
    one.docker(&["network", "create", "-d", "overlay", "net1"])?;
    create(one, "web", 3, &["--network", "net1", "-p", "8080:80"])?;
    wait_running(one, "web", 3)?;
    not_unlocked(two, &first, "swarm is not locked")?;

    // A locked manager answers so, and what runs there goes on.
    let before = two.docker(&["ps", "-q", "--no-trunc"])?;
    restart(&mut lab, 2)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    ensure!(state(two)? == "locked", "{}", state(two)?);
    ensure!(two.docker(&["ps", "-q", "--no-trunc"])? == before, "the same containers run");
    let page = within(two, before.trim(), &["curl", "-sS", "--max-time", "3", "http://127.0.0.1/"])?;
    ensure!(page.contains("Hostname: "), "{page}");
    lab.outside(&["curl", "-sS", "--max-time", "3", &format!("http://{}:8080/", two.addr)])?;
    for args in [&["service", "ls"][..], &["swarm", "unlock-key"], &["swarm", "init", "--force-new-cluster"]]
    {
        refused(two, args, &[LOCKED])?;
    }
    let answer = two.request("GET", "/v1.50/swarm", "")?;
    ensure!(answer.status == 503 && answer.body.contains("needs to be unlocked"), "{answer:?}");
    refused(two, &["swarm", "init"], &["already part of a swarm"])?;
    refused(two, &["swarm", "leave"], &["Swarm is encrypted and locked", "--force"])?;
    let wrong = format!("SWMKEY-1-{}", "A".repeat(43));
    not_unlocked(two, &wrong, "swarm could not be unlocked: invalid key provided")?;
    not_unlocked(two, "nonsense", "invalid key string")?;
    let answer = two.request("POST", "/v1.50/swarm/unlock", &format!(r#"{{"UnlockKey":"{wrong}"}}"#))?;
    ensure!(answer.status == 401, "{answer:?}");
    ensure!(state(two)? == "locked", "a wrong key changes nothing");

    // It missed a rotation: the old key opens it, and then it is the new one.
    let second = key(one, &["--rotate"])?;
    ensure!(first != second && key(three, &[])? == second, "every manager tells the new key");
    unlock(two, &first)?;
    nodes_are(two, "it is a manager again", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    ensure!(two.docker(&["ps", "-q", "--no-trunc"])? == before, "the same containers run");
    eventually("it knows the new key", LONG, || {
        ensure!(key(two, &[])? == second);
        let log = std::fs::read_to_string(two.log())?;
        ensure!(log.contains("keys are sealed by the swarm's unlock key now"), "{}", two.log_tail());
        Ok(())
    })?;
    restart(&mut lab, 2)?;
    let two = lab.host(2);
    not_unlocked(two, &first, "invalid key provided")?;
    unlock(two, &second)?;
    nodes_are(two, "it is a manager again", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;

    // A worker is never locked.
    two.docker(&["node", "demote", &lab.host(3).name])?;
    nodes_are(two, "two managers", &["Ready Leader", "Ready Reachable", "Ready"])?;
    keys_are(lab.host(3), false)?;
    restart(&mut lab, 3)?;
    ensure!(state(lab.host(3))? == "active");

    // A locked manager leaves by force; what the swarm had there goes.
    restart(&mut lab, 2)?;
    let two = lab.host(2);
    ensure!(state(two)? == "locked");
    two.docker(&["swarm", "leave", "--force"])?;
    ensure!(state(two)? == "inactive");
    wait_empty(two)?;

    // The last manager goes on alone; without autolock it comes back by itself.
    restart(&mut lab, 1)?;
    let one = lab.host(1);
    unlock(one, &second)?;
    one.docker(&["swarm", "init", "--force-new-cluster", "--advertise-addr", "eth0"])?;
    let said = one.docker(&["swarm", "update", "--autolock=false"])?;
    ensure!(said.contains("Swarm updated."), "{said}");
    keys_are(one, false)?;
    refused(one, &["swarm", "unlock-key"], &["no unlock key is set"])?;
    restart(&mut lab, 1)?;
    let one = lab.host(1);
    ensure!(state(one)? == "active");
    let said = one.docker(&["swarm", "update", "--autolock"])?;
    ensure!(said.contains("SWMKEY-1-") && !said.contains(&second), "{said}");
    keys_are(one, true)?;
    lab.down()
}
