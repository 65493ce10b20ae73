//! Proxies towards registries, and how often a download is tried.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use skep_e2e::Host;
use skep_e2e::registry::{Registry, RegistryOptions};

use super::{shown, told};
use crate::{busybox, docker, lab};

/// A proxy for plain HTTP that writes down what it is asked, and ends instead of answering what names blobs once it is told.
#[derive(Clone, Default)]
struct Proxy(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    requests: Vec<String>,
    cuts: bool,
}

impl Proxy {
    fn start(host: &Host) -> Result<Self> {
        let (proxy, listener) = (Self::default(), host.listen(3128)?);
        let (serving, host) = (proxy.clone(), host.clone());
        std::thread::spawn(move || serving.serve(&listener, &host));
        Ok(proxy)
    }

    fn serve(&self, listener: &TcpListener, host: &Host) {
        while let Ok((client, _)) = listener.accept() {
            let (proxy, host) = (self.clone(), host.clone());
            // A client that goes is no matter.
            std::thread::spawn(move || drop(proxy.answer(client, &host)));
        }
    }

    /// One request for each connection.
    fn answer(&self, client: TcpStream, host: &Host) -> Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            ensure!(reader.read_line(&mut head)? > 0, "the client has gone");
        }
        let line = head.lines().next().context("a request")?.to_owned();
        let cuts = {
            let mut seen = self.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
            seen.requests.push(head.clone());
            seen.cuts && line.contains("/blobs/sha256")
        };
        if cuts {
            return Ok(client.shutdown(Shutdown::Both)?);
        }
        let url = line.split(' ').nth(1).context("a URL")?;
        let path = url.strip_prefix("http://reg.example:5000").context("a whole URL")?;
        let mut server = host.at(None, || TcpStream::connect("127.0.0.1:5000"))?;
        let rest = head.split_once("\r\n").context("headers")?.1.trim_end();
        write!(server, "GET {path} HTTP/1.1\r\n{rest}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        (&client).write_all(&answer)?;
        Ok(client.shutdown(Shutdown::Both)?)
    }

    fn asked(&self, what: &str) -> usize {
        self.0.lock().map_or(0, |seen| {
            seen.requests.iter().filter(|r| r.lines().next().is_some_and(|l| l.contains(what))).count()
        })
    }
}

#[test]
fn registries_are_reached_by_proxies_and_downloads_are_tried_so_often() -> Result<()> {
    let lab = lab("sp")?;
    let host = lab.host(1);
    busybox(host)?;
    let _registry = Registry::start(host, "0.0.0.0:5000", &RegistryOptions::default())?;
    // By no address of the loopback network, which is reached without a proxy whatever is told.
    let spared = format!("{}:5000", host.addr);
    host.docker(&["tag", "busybox", "127.0.0.1:5000/team/busybox"])?;
    host.docker(&["push", "-q", "127.0.0.1:5000/team/busybox"])?;
    let proxy = Proxy::start(host)?;
    told(
        host,
        &format!(
            "insecure-registries = [\"reg.example:5000\", \"{spared}\"]\nmax-download-attempts = 2\n\
             [proxies]\nhttp-proxy = \"http://me:secret@127.0.0.1:3128\"\nhttps-proxy = \"http://127.0.0.1:1\"\nno-proxy = \"{}/32\"\n",
            host.addr
        ),
    )?;
    shown(
        host,
        &[(
            "proxies",
            &["info", "-f", "{{.HTTPProxy}} {{.HTTPSProxy}} {{.NoProxy}}"],
            &format!("http://xxxxx:xxxxx@127.0.0.1:3128 http://127.0.0.1:1 {}/32", host.addr),
        )],
    )?;
    // Of what the registry itself is asked without a proxy, all is here.
    host.docker(&["rmi", "-f", "busybox", "127.0.0.1:5000/team/busybox"])?;
    proxy.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.cuts = true;
    let failed = docker(host, &["pull", "reg.example:5000/team/busybox"])?;
    ensure!(failed.code == Some(1), "{failed:?}");
    ensure!(
        proxy.asked("/blobs/sha256") == 2,
        "max-download-attempts: {} requests",
        proxy.asked("/blobs/sha256")
    );
    proxy.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.cuts = false;
    host.docker(&["pull", "-q", "reg.example:5000/team/busybox"])?;
    ensure!(proxy.asked("http://reg.example:5000/v2/team/busybox/manifests/latest") > 0, "http-proxy");
    let said = proxy.0.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.requests.concat().to_lowercase();
    ensure!(said.contains("proxy-authorization: basic bwu6c2vjcmv0"), "{said}");
    host.docker(&["run", "--rm", "reg.example:5000/team/busybox", "/bin/busybox", "true"])?;
    // Who is spared is reached without.
    let before = proxy.asked("");
    host.docker(&["pull", "-q", &format!("{spared}/team/busybox")])?;
    ensure!(proxy.asked("") == before, "no-proxy");
    lab.down()
}
