//! Joining, connecting and renewing over real TLS on loopback, against a small CA service.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use skep_identity::{
    Bootstrap, Credentials, Error, Host, Identity, JoinToken, Network, Role, RootCa, Tcp, Trust, bootstrap,
    channel, check_root, dial, explain, incoming, peer, renew, require, require_any, server, tls_info,
};
use skep_proto::ids::{ClusterId, NodeId};
use skep_proto::v1::ca_client::CaClient;
use skep_proto::v1::ca_server::{Ca, CaServer};
use skep_proto::v1::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Request, Response, Status};

const LIFE: Duration = Duration::from_secs(3600);

struct TestCa {
    root: RootCa,
    worker: JoinToken,
    manager: JoinToken,
    /// What a host without the right root gets to see.
    served_root: String,
}

#[tonic::async_trait]
impl Ca for TestCa {
    async fn get_root(&self, _: Request<GetRootRequest>) -> Result<Response<GetRootResponse>, Status> {
        Ok(Response::new(GetRootResponse { root_ca_pem: self.served_root.clone() }))
    }

    async fn issue_certificate(
        &self,
        request: Request<IssueCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        assert!(peer(request.extensions()).is_some_and(|p| p.identity.is_none()));
        let request = request.into_inner();
        let token: JoinToken =
            request.token.parse().map_err(|e: Error| Status::invalid_argument(e.to_string()))?;
        let role = if token.matches(&self.worker) {
            Role::Worker
        } else if token.matches(&self.manager) {
            Role::Manager
        } else {
            return Err(Status::permission_denied("it is not a current one"));
        };
        self.answer("joiner", role, &request.csr_pem)
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let peer = require_any(request.extensions())?;
        // Promotes whoever asks, so that a renewal shows.
        self.answer(peer.node_id.as_str(), Role::Manager, &request.into_inner().csr_pem)
    }
}

impl TestCa {
    fn answer(
        &self,
        node: &str,
        role: Role,
        csr: &str,
    ) -> Result<Response<IssueCertificateResponse>, Status> {
        let certificate_pem = self
            .root
            .issue(csr, &node.into(), role, LIFE)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(Response::new(IssueCertificateResponse {
            node_id: node.to_owned(),
            role: role.into(),
            certificate_pem,
            root_ca_pem: self.root.cert_pem().to_owned(),
            trust_epoch: 0,
        }))
    }
}

/// Tells callers the role their connection has; refuses workers.
struct ManagersOnly;
#[tonic::async_trait]
impl raft_server::Raft for ManagersOnly {
    async fn send(&self, _: Request<tonic::Streaming<RaftMessage>>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn join(&self, _: Request<RaftJoinRequest>) -> Result<Response<RaftJoinResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn leave(&self, _: Request<RaftLeaveRequest>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn readdress(
        &self,
        _: Request<RaftReaddressRequest>,
    ) -> Result<Response<RaftReaddressResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
    async fn read_index(&self, request: Request<Empty>) -> Result<Response<ReadIndexResponse>, Status> {
        require(request.extensions(), Role::Manager)?;
        Ok(Response::new(ReadIndexResponse { index: 1 }))
    }
}

struct Cluster {
    network: Arc<dyn Network>,
    addr: String,
    worker: JoinToken,
    manager: JoinToken,
    root: (String, String),
    cluster: String,
    dir: TempDir,
}

async fn cluster(tamper: bool) -> Cluster {
    cluster_of_role(tamper, Role::Manager).await
}

async fn cluster_of_role(tamper: bool, role: Role) -> Cluster {
    let root = RootCa::generate(&Host::system(), ClusterId::random(&mut rand::rng())).expect("root");
    let (worker, manager) = (
        JoinToken::generate(root.digest(), &mut rand::rng()),
        JoinToken::generate(root.digest(), &mut rand::rng()),
    );
    let other = RootCa::generate(&Host::system(), root.cluster_id().clone()).expect("root");
    let served_root = if tamper { other.cert_pem() } else { root.cert_pem() }.to_owned();
    let dir = TempDir::new().expect("dir");
    let identity = identity(&root, dir.path(), "server", role);
    let network: Arc<dyn Network> = Arc::new(Tcp);
    let listener = network.bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr").to_string();
    let cluster = root.cluster_id().as_str().to_owned();
    let pems = (root.cert_pem().to_owned(), root.key_pem().to_owned());
    let ca = TestCa { root, worker: worker.clone(), manager: manager.clone(), served_root };
    let serve = server()
        .add_service(CaServer::new(ca))
        .add_service(raft_server::RaftServer::new(ManagersOnly))
        .serve_with_incoming(incoming(&identity, listener));
    tokio::spawn(serve);
    Cluster { network, addr, worker, manager, root: pems, cluster, dir }
}

fn identity(root: &RootCa, dir: &Path, node: &str, role: Role) -> Identity {
    let credentials = root.credentials(&NodeId::from(node), role, LIFE).expect("credentials");
    Identity::create(&dir.join(node), credentials).expect("stored")
}

impl Cluster {
    async fn join(&self, token: &JoinToken) -> Result<Identity, Error> {
        self.join_at(&self.addr, token).await
    }
    async fn join_at(&self, addr: &str, token: &JoinToken) -> Result<Identity, Error> {
        let join = Bootstrap {
            host: &Host::system(),
            addr,
            token,
            availability: NodeAvailability::Active,
            hostname: "h",
        };
        bootstrap(&self.network, &self.dir.path().join("joiner"), join).await
    }
    fn root(&self) -> RootCa {
        RootCa::from_pem(&Host::system(), &ClusterId::from(self.cluster.as_str()), &self.root.0, &self.root.1)
            .expect("root")
    }
}

#[tokio::test]
async fn a_host_joins_and_its_identity_is_there_after_a_restart() {
    let cluster = cluster(false).await;
    let joined = cluster.join(&cluster.worker).await.expect("joined");
    assert_eq!((joined.node_id().as_str(), joined.role()), ("joiner", Role::Worker));
    let loaded = Identity::load(&cluster.dir.path().join("joiner"), None).expect("readable").expect("there");
    assert_eq!(loaded.cluster_id(), cluster.root().cluster_id().clone());
    loaded.forget().expect("removed");
    assert!(Identity::load(&cluster.dir.path().join("joiner"), None).expect("readable").is_none());
}

#[tokio::test]
async fn the_token_decides_the_role_and_a_wrong_one_is_refused_with_the_remedy() {
    let cluster = cluster(false).await;
    assert_eq!(cluster.join(&cluster.manager).await.expect("joined").role(), Role::Manager);
    let rotated = JoinToken::generate(cluster.root().digest(), &mut rand::rng());
    let error = cluster.join(&rotated).await.expect_err("refused").to_string();
    assert!(error.contains("not a current one") && error.contains("join-token"), "{error}");
}

#[tokio::test]
async fn a_root_that_the_token_does_not_pin_is_refused() {
    let cluster = cluster(true).await;
    let error = cluster.join(&cluster.worker).await.expect_err("refused");
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn addresses_that_are_no_managers_are_named_as_such() {
    let cluster = cluster(false).await;
    let token = &cluster.worker;
    let unused = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let refused = unused.local_addr().expect("addr").to_string();
    drop(unused);
    let error = cluster.join_at(&refused, token).await.expect_err("refused");
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let error = cluster.join_at("not-an-address", token).await.expect_err("refused");
    assert!(error.to_string().contains("not an IP address"), "{error}");

    for answer in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b""] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("addr").to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut hello = [0; 64];
                let _ = stream.read(&mut hello).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let error = cluster.join_at(&addr, token).await.expect_err("refused");
        assert!(matches!(error, Error::NotAManager { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_the_wrong_role_or_another_swarm_is_refused() {
    let worker = cluster_of_role(false, Role::Worker).await;
    let own = identity(&worker.root(), worker.dir.path(), "client", Role::Worker);
    let error = dial(&own, &worker.network, &worker.addr, Role::Manager).await.expect_err("refused");
    assert!(matches!(error, Error::WrongRole { .. }), "{error}");
    // The cause is also found behind tonic's "transport error".
    let mut client = CaClient::new(channel(&own, &worker.network, &worker.addr, Role::Manager));
    let status = client.get_root(GetRootRequest {}).await.expect_err("refused");
    let text = explain(&worker.addr, &status);
    assert!(text.contains("swarm-worker") && text.contains("swarm-manager"), "{text}");

    let other = cluster(false).await;
    let error = dial(&own, &other.network, &other.addr, Role::Manager).await.expect_err("refused");
    assert!(error.to_string().contains("authority"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_points_at_the_clocks() {
    let cluster = cluster(false).await;
    let root = cluster.root();
    let expired = root.credentials(&"old".into(), Role::Manager, Duration::ZERO).expect("credentials");
    let old = Identity::create(&cluster.dir.path().join("old"), expired).expect("stored");
    let listener = cluster.network.bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr").to_string();
    // A certificate of no life has expired once the clock's second has turned.
    while std::time::SystemTime::now() <= old.current().validity().1 + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::spawn(
        server()
            .add_service(raft_server::RaftServer::new(ManagersOnly))
            .serve_with_incoming(incoming(&old, listener)),
    );
    let own = identity(&root, cluster.dir.path(), "client", Role::Worker);
    let error = dial(&own, &cluster.network, &addr, Role::Manager).await.expect_err("refused");
    assert!(matches!(error, Error::Clock { .. }) && error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn roles_are_checked_per_connection_and_renewal_drops_none() {
    let cluster = cluster(false).await;
    let own = cluster.join(&cluster.worker).await.expect("joined");
    let connect = || channel(&own, &cluster.network, &cluster.addr, Role::Manager);
    let mut before = raft_client::RaftClient::new(connect());
    let refusal = before.read_index(Empty {}).await.expect_err("a worker");
    assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
    assert!(refusal.message().contains("swarm-worker"), "{refusal}");

    assert_eq!(renew(&own, connect()).await.expect("renewed"), Role::Manager);
    assert_eq!(own.role(), Role::Manager);
    // The connection from before is still there, with its old role; a new one has the new role.
    let refusal = before.read_index(Empty {}).await.expect_err("still the worker's connection");
    assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
    raft_client::RaftClient::new(connect()).read_index(Empty {}).await.expect("a manager now");
    let loaded = Identity::load(&cluster.dir.path().join("joiner"), None).expect("readable").expect("there");
    assert_eq!(loaded.role(), Role::Manager);
}

#[tokio::test]
async fn a_host_without_certificate_may_not_call_other_services() {
    let cluster = cluster(false).await;
    let stranger = RootCa::generate(&Host::system(), ClusterId::random(&mut rand::rng())).expect("root");
    let foreign = identity(&stranger, cluster.dir.path(), "foreign", Role::Manager);
    let error = dial(&foreign, &cluster.network, &cluster.addr, Role::Manager).await;
    assert!(error.is_err());
}

#[test]
fn credentials_must_belong_together() {
    let root = RootCa::generate(&Host::system(), ClusterId::random(&mut rand::rng())).expect("root");
    let other = RootCa::generate(&Host::system(), ClusterId::random(&mut rand::rng())).expect("root");
    let own = root.credentials(&"n".into(), Role::Worker, LIFE).expect("credentials");
    let from_pem = |cert: &str, key: &str| RootCa::from_pem(&Host::system(), root.cluster_id(), cert, key);
    let trust = |root: &RootCa| Trust::first(root.cert_pem());
    assert!(from_pem(root.cert_pem(), other.key_pem()).is_err());
    assert!(Credentials::from_pem(other.key_pem(), &own.chain_pem(), trust(&root)).is_err());
    assert!(Credentials::from_pem(other.key_pem(), &own.chain_pem(), trust(&other)).is_err());
    assert!(from_pem("garbage", "garbage").is_err());
}

#[test]
fn a_damaged_identity_file_is_an_error_not_a_panic() {
    let dir = TempDir::new().expect("dir");
    let root = RootCa::generate(&Host::system(), ClusterId::random(&mut rand::rng())).expect("root");
    let credentials = root.credentials(&"n".into(), Role::Worker, LIFE).expect("credentials");
    Identity::create(dir.path(), credentials).expect("stored");
    let path = dir.path().join("node.pem");
    let text = std::fs::read_to_string(&path).expect("read");
    for cut in [0, 10, text.len() / 2, text.len() - 40] {
        std::fs::write(&path, &text[..cut]).expect("write");
        let error = Identity::load(dir.path(), None).map(drop).expect_err("refused");
        assert!(!error.to_string().is_empty());
    }
}

/// A root, the root after it, and an identity of each.
struct Rotation {
    dir: TempDir,
    old: RootCa,
    new: RootCa,
    cross_signed: String,
}

fn rotation() -> Rotation {
    let host = Host::system();
    let old = RootCa::generate(&host, ClusterId::random(&mut rand::rng())).expect("root");
    let new = RootCa::generate(&host, old.cluster_id().clone()).expect("root");
    let cross_signed = old.cross_sign(new.cert_pem()).expect("signed");
    let new = new.cross_signed(&cross_signed);
    new.try_out(&[old.cert_pem(), new.cert_pem()]).expect("known to both");
    Rotation { dir: TempDir::new().expect("dir"), old, new, cross_signed }
}

impl Rotation {
    fn trust(&self, roots: &[&RootCa], epoch: u64) -> Trust {
        Trust { roots_pem: roots.iter().map(|r| r.cert_pem()).collect(), epoch }
    }
    /// A manager whose certificate `issuer` signed, and which trusts `roots`.
    fn node(&self, name: &str, issuer: &RootCa, roots: &[&RootCa], epoch: u64) -> Identity {
        let issued = issuer.credentials(&name.into(), Role::Manager, LIFE);
        // Under its own root first, as if there had been no other.
        let credentials = issued.unwrap_or_else(|e| panic!("{name}: {e}"));
        let identity = Identity::create(&self.dir.path().join(name), credentials).expect("stored");
        identity.trust(&self.trust(roots, epoch)).expect("trusted");
        identity
    }
}

/// Whether a client reaches a server, each verifying the other; else why not.
async fn reaches(client: &Identity, server_of: &Identity) -> Result<(), String> {
    let network: Arc<dyn Network> = Arc::new(Tcp);
    let listener = network.bind("127.0.0.1:0").await.expect("bind");
    let addr = listener.local_addr().expect("addr").to_string();
    let serve = server()
        .add_service(raft_server::RaftServer::new(ManagersOnly))
        .serve_with_incoming(incoming(server_of, listener));
    let serving = tokio::spawn(serve);
    let channel = channel(client, &network, &addr, Role::Manager);
    let reached = raft_client::RaftClient::new(channel).read_index(Empty {}).await;
    serving.abort();
    reached.map(drop).map_err(|status| explain(&addr, &status))
}

#[tokio::test]
async fn while_the_root_is_replaced_every_node_reaches_every_other() {
    let r = rotation();
    let (old, new) = (&r.old, &r.new);
    let nodes = [
        ("not asked yet", r.node("a", old, &[old], 0)),
        ("renewed", r.node("b", new, &[old, new], 1)),
        ("told that it is over", r.node("c", new, &[new], 2)),
    ];
    for (of, server) in &nodes {
        for (by, client) in &nodes {
            // The old root goes only after the last certificate of it.
            let apart = [*of, *by].contains(&"not asked yet") && [*of, *by].contains(&"told that it is over");
            let reached = reaches(client, server).await;
            assert_eq!(reached.is_err(), apart, "{of} by {by}: {reached:?}");
        }
    }
    // One that was removed while it was away is told what to do.
    let why = reaches(&nodes[0].1, &nodes[2].1).await.expect_err("unknown");
    assert!(why.contains("docker swarm leave --force"), "{why}");
    // What another root signed is of no use: it takes the cross-signed certificate.
    let bare =
        RootCa::from_pem(&Host::system(), old.cluster_id(), new.cert_pem(), new.key_pem()).expect("root");
    assert!(bare.try_out(&[old.cert_pem()]).is_err());
    assert!(r.cross_signed.starts_with("-----BEGIN CERTIFICATE-----\n"));
}

#[tokio::test]
async fn trust_changes_on_disk_first_and_never_goes_back() {
    let r = rotation();
    let (old, new) = (&r.old, &r.new);
    let node = r.node("n", new, &[old, new], 1);
    let mut renewals = node.renewals();
    assert!(!node.trust(&r.trust(&[old, new], 1)).expect("known"), "nothing new");
    assert!(!renewals.has_changed().expect("there"));
    assert!(node.trust(&r.trust(&[new], 2)).expect("taken"));
    assert!(renewals.borrow_and_update().ge(&1));
    assert!(!node.trust(&r.trust(&[old, new], 1)).expect("passed over"));
    let loaded = Identity::load(&r.dir.path().join("n"), None).expect("readable").expect("there");
    assert_eq!(loaded.current().trust(), &r.trust(&[new], 2));
    assert_eq!(loaded.current().chain_pem(), node.current().chain_pem());
    assert_eq!(loaded.current().tls_info(), &tls_info(new.cert_pem(), new.cert_pem()).expect("info"));
    // A manager that is behind signs with the old root still.
    let behind = old.credentials(&"n".into(), Role::Manager, LIFE).expect("credentials");
    let refusal = node.replace(behind).expect_err("refused").to_string();
    assert!(refusal.contains("present root"), "{refusal}");
    // Nobody trusts only roots by which it would not be known itself.
    let stranger = rotation();
    assert!(node.trust(&stranger.trust(&[&stranger.old], 3)).is_err());
    assert_eq!(node.current().trust(), &r.trust(&[new], 2));
}

#[test]
fn roots_that_people_bring_in_the_forms_they_have_them_in() {
    let dir = TempDir::new().expect("dir");
    let openssl = |args: &str| {
        let done =
            std::process::Command::new("openssl").args(args.split(' ')).current_dir(dir.path()).output();
        let done = done.expect("openssl");
        assert!(done.status.success(), "{args}: {}", String::from_utf8_lossy(&done.stderr));
    };
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).expect(name);
    let host = Host::system();
    let old = RootCa::generate(&host, ClusterId::random(&mut rand::rng())).expect("root");
    for (kind, make) in [
        ("sec1", "ecparam -name prime256v1 -genkey -out sec1.key"),
        ("p384", "ecparam -name secp384r1 -genkey -out p384.key"),
        ("rsa", "genrsa -traditional -out rsa.key 2048"),
        ("pkcs8", "genpkey -algorithm ed25519 -out pkcs8.key"),
    ] {
        openssl(make);
        openssl(&format!(
            "req -x509 -new -key {kind}.key -days 800 -subj /O=Example/OU=Swarms/CN=Root/L=Here -out {kind}.pem"
        ));
        let (cert, key) = (read(&format!("{kind}.pem")), read(&format!("{kind}.key")));
        check_root(&host, &cert).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let new =
            RootCa::from_pem(&host, old.cluster_id(), &cert, &key).unwrap_or_else(|e| panic!("{kind}: {e}"));
        let new = new.cross_signed(&old.cross_sign(&cert).expect("signed"));
        new.try_out(&[old.cert_pem(), &cert]).unwrap_or_else(|e| panic!("{kind}: {e}"));
        // And the other way: this root gives way to one of the swarm's own making.
        let next = RootCa::generate(&host, old.cluster_id().clone()).expect("root");
        let next_cross = new.cross_sign(next.cert_pem()).expect("signed");
        next.cross_signed(&next_cross).try_out(&[&cert]).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert!(RootCa::from_pem(&host, old.cluster_id(), &cert, old.key_pem()).is_err(), "another's key");
    }
    openssl("req -x509 -new -key sec1.key -days 300 -subj /CN=short -out short.pem");
    let refusal = check_root(&host, &read("short.pem")).expect_err("refused").to_string();
    assert!(refusal.contains("expires too soon"), "{refusal}");
    openssl(
        "req -x509 -new -key sec1.key -days 800 -subj /CN=leaf -addext basicConstraints=CA:FALSE -out leaf.pem",
    );
    assert!(check_root(&host, &read("leaf.pem")).is_err());
    assert!(check_root(&host, &format!("{}{}", read("rsa.pem"), read("sec1.pem"))).is_err(), "one only");
}
