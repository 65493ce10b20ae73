//! The name server inside a real network namespace, asked over real sockets.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use skep_overlay::dns::{ADDRESS, Resolver, Zone};

/// Clients ask again after this; whatever takes longer is a failure.
const CLIENT: Duration = Duration::from_secs(5);

/// A container: a network namespace with its loopback up.
struct Container {
    name: String,
}

static COUNTER: AtomicU32 = AtomicU32::new(0);

fn must(args: &[&str]) {
    let status = Command::new("ip").args(args).status().expect("ip");
    assert!(status.success(), "ip {args:?}: {status}");
}

impl Container {
    fn new() -> Self {
        let name = format!("skdns{:x}x{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        must(&["netns", "add", &name]);
        must(&["-n", &name, "link", "set", "lo", "up"]);
        Self { name }
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs code inside, on a thread of its own.
    fn inside<T: Send + 'static>(&self, code: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path();
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::open(path).expect("namespace");
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
            code()
        });
        thread.join().expect("inside")
    }

    fn udp(&self) -> UdpSocket {
        self.inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
            socket.connect((ADDRESS, 53)).expect("connect");
            socket.set_read_timeout(Some(CLIENT)).expect("timeout");
            socket
        })
    }

    fn tcp(&self) -> TcpStream {
        self.inside(|| {
            let stream = TcpStream::connect((ADDRESS, 53)).expect("connect");
            stream.set_read_timeout(Some(CLIENT)).expect("timeout");
            stream
        })
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        ask_udp(&self.udp(), &request(name, kind))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn request(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
    message
}

fn ask_udp(socket: &UdpSocket, request: &Message) -> Message {
    socket.send(&request.to_vec().expect("encode")).expect("send");
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).expect("no answer");
    let answer = Message::from_vec(&buffer[..len]).expect("decode");
    assert_eq!(answer.metadata.id, request.metadata.id);
    answer
}

fn ask_tcp(stream: &mut TcpStream, request: &Message) -> Message {
    write_tcp(stream, &request.to_vec().expect("encode"));
    let answer = Message::from_vec(&read_tcp(stream).expect("no answer")).expect("decode");
    assert_eq!(answer.metadata.id, request.metadata.id);
    answer
}

fn write_tcp(stream: &mut TcpStream, message: &[u8]) {
    let len = u16::try_from(message.len()).expect("length");
    stream.write_all(&len.to_be_bytes()).and_then(|()| stream.write_all(message)).expect("write");
}

fn read_tcp(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let mut all: Vec<Ipv4Addr> = message
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::A(a) => a.0,
            other => panic!("{other}"),
        })
        .collect();
    all.sort();
    all
}

fn zone() -> Zone {
    let mut zone = Zone::new();
    zone.add_vip("web", Ipv4Addr::new(10, 0, 0, 2));
    zone.add_addresses("tasks.web", [Ipv4Addr::new(10, 0, 0, 4), Ipv4Addr::new(10, 0, 0, 3)]);
    zone.add_addresses("web.1.abc", [Ipv4Addr::new(10, 0, 0, 3)]);
    zone.add_addresses("db_1", [Ipv4Addr::new(10, 0, 0, 9)]);
    zone.add_addresses("many", (1..=200).map(|n| Ipv4Addr::new(10, 1, 0, n)));
    zone.add_pointer(Ipv4Addr::new(10, 0, 0, 9), "db_1");
    zone
}

/// A name server on the host's loopback that answers any name with a TXT record of `len` bytes, cut
/// for UDP where it is long.
fn upstream(len: usize) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = udp.local_addr().expect("address");
    let tcp = TcpListener::bind(address).expect("listen");
    let answer = move |bytes: &[u8], whole: bool| {
        let query = Message::from_vec(bytes).expect("request");
        let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
        answer.add_queries(query.queries.iter().cloned());
        if whole || len < 400 {
            let text = vec!["x".repeat(200); len.div_ceil(200)];
            let record = Record::from_rdata(query.queries[0].name().clone(), 60, RData::TXT(TXT::new(text)));
            answer.add_answer(record);
        } else {
            answer.metadata.truncation = true;
        }
        if let Some(edns) = query.edns.clone() {
            answer.set_edns(edns);
        }
        answer.to_vec().expect("encode")
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = udp.recv_from(&mut buffer) {
            // A stranger's guess comes first, and has to be ignored.
            let mut guess = answer(&buffer[..len], false);
            guess[0] ^= 0x55;
            udp.send_to(&guess, from).expect("send");
            udp.send_to(&answer(&buffer[..len], false), from).expect("send");
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.expect("accept");
            while let Ok(message) = read_tcp(&mut stream) {
                write_tcp(&mut stream, &answer(&message, true));
            }
        }
    });
    address
}

/// A server that takes requests and never answers.
fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("address");
    (socket, address)
}

async fn serving(upstreams: Vec<SocketAddr>) -> (Container, Resolver, Arc<ArcSwap<Zone>>) {
    let container = Container::new();
    let resolver = Resolver::new(upstreams);
    let zone = Arc::new(ArcSwap::from_pointee(zone()));
    resolver.serve(&container.path(), "c1", zone.clone()).await.expect("serve");
    (container, resolver, zone)
}

/// Runs what blocks while the server runs.
async fn client<T: Send + 'static>(code: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(code).await.expect("client")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_the_networks_are_answered() {
    let (container, _resolver, zone) = serving(Vec::new()).await;
    let container = client(move || {
        let ip = |n| Ipv4Addr::new(10, 0, 0, n);
        for (name, expected) in [
            ("web.", vec![ip(2)]),
            ("WeB.", vec![ip(2)]),
            ("tasks.web.", vec![ip(3), ip(4)]),
            ("web.1.abc.", vec![ip(3)]),
            ("db_1.", vec![ip(9)]),
        ] {
            assert_eq!(addresses(&container.ask(name, RecordType::A)), expected, "{name}");
            let mut stream = container.tcp();
            assert_eq!(
                addresses(&ask_tcp(&mut stream, &request(name, RecordType::A))),
                expected,
                "{name} over TCP"
            );
        }
        let v6 = container.ask("web.", RecordType::AAAA);
        assert_eq!((v6.metadata.response_code, v6.answers.len()), (ResponseCode::NoError, 0));
        let pointer = container.ask("9.0.0.10.in-addr.arpa.", RecordType::PTR);
        assert_eq!(pointer.answers[0].data.to_string(), "db_1.");
        // Cut over UDP, more with EDNS, whole over TCP.
        let mut many = request("many.", RecordType::A);
        let plain = ask_udp(&container.udp(), &many);
        many.set_edns(Edns::new().set_max_payload(1232).clone());
        let extended = ask_udp(&container.udp(), &many);
        assert!(plain.metadata.truncation && extended.metadata.truncation);
        assert!(plain.answers.len() < extended.answers.len());
        let whole = ask_tcp(&mut container.tcp(), &many);
        assert_eq!((whole.metadata.truncation, whole.answers.len()), (false, 200));
        container
    })
    .await;
    // A new zone holds from the next request on.
    let mut next = Zone::new();
    next.add_vip("web", Ipv4Addr::new(10, 0, 0, 77));
    zone.store(Arc::new(next));
    client(move || {
        assert_eq!(addresses(&container.ask("web.", RecordType::A)), [Ipv4Addr::new(10, 0, 0, 77)]);
        // Nothing of it is to be seen from the host.
        assert!(TcpStream::connect((ADDRESS, 53)).is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_passed_on() {
    // The first server is dead: the second answers.
    let (_keep, dead) = silent();
    let (container, resolver, _zone) = serving(vec![dead, upstream(100)]).await;
    let container = client(move || {
        let mut request = request("example.test.", RecordType::TXT);
        request.set_edns(Edns::new().set_max_payload(1232).clone());
        let answer = ask_udp(&container.udp(), &request);
        assert_eq!((answer.answers.len(), answer.edns.is_some()), (1, true));
        container
    })
    .await;
    resolver.set_upstreams(vec![upstream(3000)]);
    client(move || {
        let long = request("long.test.", RecordType::TXT);
        assert!(ask_udp(&container.udp(), &long).metadata.truncation);
        let whole = ask_tcp(&mut container.tcp(), &long);
        assert!(whole.answers[0].data.to_string().len() >= 3000);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_all_servers_is_told_in_time() {
    let (_keep, dead) = silent();
    let closed = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    for upstreams in [vec![], vec![closed], vec![dead, closed]] {
        let (container, _resolver, _zone) = serving(upstreams.clone()).await;
        let code = client(move || container.ask("example.test.", RecordType::A).metadata.response_code).await;
        assert_eq!(code, ResponseCode::ServFail, "{upstreams:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_and_answers_do_no_harm() {
    let (container, _resolver, _zone) = serving(Vec::new()).await;
    client(move || {
        let socket = container.udp();
        let good = request("web.", RecordType::A).to_vec().expect("encode");
        for len in 0..good.len() {
            socket.send(&good[..len]).expect("send");
        }
        let mut answer = request("web.", RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        socket.send(&answer.to_vec().expect("encode")).expect("send");
        let mut stream = container.tcp();
        stream.write_all(&[0, 3, 1, 2, 3]).expect("write");
        container.tcp().write_all(&[0xFF, 0xFF, 1]).expect("write");
        assert_eq!(addresses(&container.ask("web.", RecordType::A)).len(), 1);
        assert_eq!(addresses(&ask_tcp(&mut container.tcp(), &request("web.", RecordType::A))).len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_may_have_a_name_server_of_its_own() {
    let (container, _resolver, _zone) = serving(Vec::new()).await;
    client(move || {
        let own = container.inside(|| (UdpSocket::bind("0.0.0.0:53"), TcpListener::bind("0.0.0.0:53")));
        assert!(own.0.is_ok() && own.1.is_ok(), "port 53 is taken: {own:?}");
        assert_eq!(addresses(&container.ask("web.", RecordType::A)).len(), 1);
        assert_eq!(addresses(&ask_tcp(&mut container.tcp(), &request("web.", RecordType::A))).len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_stopped_and_served_again() {
    let (container, resolver, zone) = serving(Vec::new()).await;
    // A connection of the first server is still open.
    let (mut stream, container) = client(move || (container.tcp(), container)).await;
    let path = container.path();
    resolver.serve(&path, "c1", zone.clone()).await.expect("serve in place of itself");
    let same_socket = container.udp();
    let (same_socket, first) = client(move || {
        let first = ask_udp(&same_socket, &request("web.", RecordType::A));
        (same_socket, addresses(&first))
    })
    .await;
    let (container, asked) = client(move || {
        stream.read_exact(&mut [0; 1]).expect_err("the old connection is closed");
        let asked = addresses(&container.ask("web.", RecordType::A));
        (container, asked)
    })
    .await;
    assert_eq!((asked.len(), first.len()), (1, 1));
    resolver.stop("c1").await;
    resolver.stop("c1").await;
    let container = client(move || {
        // A process that another test is starting holds a copy of the socket until it has executed.
        let refused = (0..1000).any(|_| {
            let refused = container.inside(|| TcpStream::connect((ADDRESS, 53)).is_err());
            if !refused {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            refused
        });
        assert!(refused, "it still listens");
        container
    })
    .await;
    // A new daemon.
    let next = Resolver::new(Vec::new());
    next.serve(&container.path(), "c1", zone).await.expect("serve again");
    client(move || {
        assert_eq!(addresses(&container.ask("web.", RecordType::A)).len(), 1);
        // A client that keeps its socket over the change is answered too.
        assert_eq!(addresses(&ask_udp(&same_socket, &request("web.", RecordType::A))), first);
    })
    .await;
    let error =
        next.serve(&PathBuf::from("/nowhere/ns"), "c9", Arc::default()).await.expect_err("no namespace");
    assert!(error.to_string().contains("/nowhere/ns"), "{error}");
}
