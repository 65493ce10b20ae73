//! A swarm whose certificates a server of somebody else signs: its managers never have the root's key.

use anyhow::{Result, bail, ensure};
use skep_e2e::SigningServer;
use skep_e2e::swarm::{begun, join, nodes_are, path, refused, rotated, token};

#[test]
fn a_server_of_somebody_else_signs_the_certificates() -> Result<()> {
    let lab = begun("extca", 3)?;
    let [one, two, three] = lab.hosts() else { bail!("three hosts") };
    join(two, &token(one, "manager")?, "10.99.0.1:2377")?;
    nodes_are(one, "two managers", &["Ready Leader", "Ready Reachable"])?;
    let server = SigningServer::start(one.listen(8888)?, &one.addr)?;
    let (cert, key) = (one.dir.join("ca.pem"), one.dir.join("ca.key"));
    std::fs::write(&cert, &server.cert)?;
    std::fs::write(&key, &server.key)?;
    let url = "https://10.99.0.1:8888/api/v1/cfssl/sign";
    let external = |url: &str| format!("protocol=cfssl,url={url},cacert={}", path(&cert));
    let (there, nowhere, plain) =
        (external(url), external("https://10.99.0.1:9999/sign"), external("http://10.99.0.1:8888/sign"));
    let rotate = ["swarm", "ca", "--rotate", "--ca-cert", path(&cert)];

    // What cannot sign is refused, and nothing changes.
    let before = one.docker(&["swarm", "ca"])?;
    let needed = "at least one valid, reachable external CA corresponding to the desired CA certificate";
    refused(one, &[&rotate[..], &["--external-ca", &nowhere]].concat(), &[needed, "9999"])?;
    refused(one, &[&rotate[..], &["--external-ca", &plain]].concat(), &["begins with https://"])?;
    refused(one, &["swarm", "ca", "--rotate", "--external-ca", &there], &["requires the `--ca-cert` flag"])?;
    refused(
        one,
        &["swarm", "update", "--external-ca", "protocol=acme,url=https://a/"],
        &["unrecognized external CA protocol"],
    )?;
    ensure!(one.docker(&["swarm", "ca"])? == before, "the root is as it was");

    // Every node gets its certificate there, also one that joins.
    one.docker(&[&rotate[..], &["-d", "--external-ca", &there]].concat())?;
    rotated(one)?;
    ensure!(one.docker(&["swarm", "ca"])?.trim() == server.cert.trim(), "it is the root");
    ensure!(server.signed() == 2, "{} certificates were signed", server.signed());
    join(three, &token(two, "worker")?, "10.99.0.2:2377")?;
    nodes_are(two, "three nodes", &["Ready Leader", "Ready Reachable", "Ready"])?;
    ensure!(server.signed() == 3, "{} certificates were signed", server.signed());
    let info = two.docker(&["info"])?;
    ensure!(info.contains(&format!("cfssl: {url}")), "{info}");
    let shown = two.docker(&["node", "ls", "--format", "{{.TLSStatus}}"])?;
    ensure!(shown.lines().all(|l| l == "Ready"), "{shown}");
    two.docker(&["node", "promote", &three.name])?;
    nodes_are(two, "three managers", &["Ready Leader", "Ready Reachable", "Ready Reachable"])?;
    ensure!(server.signed() == 4, "{} certificates were signed", server.signed());
    // Other settings can be changed while it is there.
    one.docker(&["swarm", "update", "--task-history-limit", "3"])?;
    refused(one, &["swarm", "ca", "--rotate"], &["the present root's key is needed"])?;

    // Without it nothing is signed, and whoever asks is told so; with the key managers can.
    three.docker(&["swarm", "leave", "--force"])?;
    one.docker(&["node", "rm", "--force", &three.name])?;
    let worker = token(one, "worker")?;
    drop(server);
    let joins = ["swarm", "join", "--token", &worker, "--advertise-addr", &three.addr, "10.99.0.1:2377"];
    refused(three, &joins, &["no external CA signed the certificate", url])?;
    one.docker(&[&rotate[..], &["-d", "--ca-key", path(&key)]].concat())?;
    join(three, &token(one, "worker")?, "10.99.0.1:2377")?;
    one.docker(&["swarm", "ca", "--rotate", "-d"])?;
    rotated(one)?;
    ensure!(!one.docker(&["swarm", "ca"])?.contains(before.trim()), "a root of the swarm's own making");
    lab.down()
}
