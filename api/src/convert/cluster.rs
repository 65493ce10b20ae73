//! The cluster: `init`, `join` and `update` read, `GET /swarm` written.

use serde_json::{Value, json};
use skep_proto::defaults;
use skep_proto::v1::{Annotations, Cluster, ClusterSpec, ExternalCa, NodeAvailability};

use super::names::Named;
use super::{created, tls_info, updated, version};
use crate::error::{ApiError, ApiResult};
use crate::fields::Fields;
use crate::swarm::{InitRequest, JoinRequest, ReaddressRequest};

/// Docker's name of the only cluster.
const NAME: &str = "default";
/// What is reported of settings that Skep fixes; the same values are accepted back.
const SLOW_FOLLOWERS: u64 = 500;
const ELECTION_TICK: u64 = 10;
const HEARTBEAT_TICK: u64 = 1;

/// Body of `POST /swarm/init`.
pub fn read_init(body: &[u8]) -> ApiResult<InitRequest> {
    let mut f = Fields::parse(body)?;
    let address_pools = f.strings("DefaultAddrPool")?;
    let subnet_size = f.u64("SubnetSize")?;
    if subnet_size > 30 {
        return Err(ApiError::bad_request(format!(
            "SubnetSize = {subnet_size} is not valid: give a prefix length up to 30"
        )));
    }
    let data_path_port = f.port("DataPathPort")?;
    if data_path_port != 0 && !(1024..=49151).contains(&data_path_port) {
        return Err(ApiError::bad_request(format!(
            "DataPathPort = {data_path_port} is not valid: give a port from 1024 to 49151"
        )));
    }
    let autolock = f.bool("AutoLockManagers")?;
    let mut request = InitRequest {
        listen_addr: f.string("ListenAddr")?,
        advertise_addr: f.string("AdvertiseAddr")?,
        data_path_addr: f.string("DataPathAddr")?,
        data_path_port: data_path_port.into(),
        // The length is that of networks cut from the pools given; the client sends its default of
        // 24 with no pool too.
        subnet_size: if address_pools.is_empty() { 0 } else { subnet_size as u32 },
        address_pools,
        force_new_cluster: f.bool("ForceNewCluster")?,
        availability: NodeAvailability::read("Availability", &f.string("Availability")?)?,
        spec: read_spec(f.object("Spec")?)?,
    };
    f.refuse_rest(&[])?;
    // Docker's clients say it in both places.
    request.spec.autolock |= autolock;
    if request.force_new_cluster {
        kept_by_force(&request)?;
    }
    Ok(request)
}

/// A swarm that goes on with one manager keeps its settings: refuses those of a new one.
fn kept_by_force(request: &InitRequest) -> ApiResult<()> {
    let default = read_spec(Fields::parse(b"{}")?)?;
    let set = [
        ("DefaultAddrPool", !request.address_pools.is_empty()),
        ("DataPathPort", request.data_path_port != 0),
        ("Availability", request.availability != NodeAvailability::Active),
        ("Spec", request.spec != default),
    ];
    match set.iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(ApiError::bad_request(format!(
            "{field} cannot be set with ForceNewCluster: the swarm keeps its settings; leave it out, and change \
             what can be changed afterwards (docker swarm update, docker node update)"
        ))),
        None => Ok(()),
    }
}

/// Body of `POST /swarm/join`.
pub fn read_join(body: &[u8]) -> ApiResult<JoinRequest> {
    let mut f = Fields::parse(body)?;
    let request = JoinRequest {
        listen_addr: f.string("ListenAddr")?,
        advertise_addr: f.string("AdvertiseAddr")?,
        data_path_addr: f.string("DataPathAddr")?,
        remote_addrs: f.strings("RemoteAddrs")?,
        token: f.string("JoinToken")?,
        availability: NodeAvailability::read("Availability", &f.string("Availability")?)?,
    };
    f.refuse_rest(&[])?;
    if request.remote_addrs.iter().all(String::is_empty) {
        return Err(ApiError::bad_request(
            "RemoteAddrs is missing: at least 1 RemoteAddr is required to join",
        ));
    }
    if request.token.is_empty() {
        return Err(ApiError::bad_request(
            "JoinToken is missing: get one on a manager with docker swarm join-token worker",
        ));
    }
    Ok(request)
}

/// Body of `POST /swarm/readdress`.
pub fn read_readdress(body: &[u8]) -> ApiResult<ReaddressRequest> {
    let mut f = Fields::parse(body)?;
    let request = ReaddressRequest {
        advertise_addr: f.string("AdvertiseAddr")?,
        data_path_addr: f.string("DataPathAddr")?,
        remote_addrs: f.strings("RemoteAddrs")?,
    };
    f.refuse_rest(&[])?;
    if request == ReaddressRequest::default() {
        return Err(ApiError::bad_request(
            "nothing is to change: name AdvertiseAddr, DataPathAddr or RemoteAddrs",
        ));
    }
    Ok(request)
}

/// Body of `POST /swarm/unlock`: the key.
pub fn read_unlock(body: &[u8]) -> ApiResult<String> {
    let mut f = Fields::parse(body)?;
    let key = f.string("UnlockKey")?;
    f.refuse_rest(&[])?;
    Ok(key)
}

/// A cluster's specification, as `init` takes it.
pub fn read_spec(f: Fields) -> ApiResult<ClusterSpec> {
    read_update(f).and_then(|(spec, root)| match root.is_asked() {
        false => Ok(spec),
        true => Err(ApiError::bad_request(
            "CAConfig.SigningCACert is not taken here: a new swarm makes its root; bring another one afterwards \
             (docker swarm ca --rotate --ca-cert FILE --ca-key FILE)",
        )),
    })
}

/// The root that an update brings; empty for none.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct SigningCa {
    /// PEM of its certificate.
    pub cert: String,
    /// PEM of its key.
    pub key: String,
}

impl SigningCa {
    fn is_asked(&self) -> bool {
        !self.cert.is_empty() || !self.key.is_empty()
    }
}

/// Body of `POST /swarm/update`: a specification, and the root that is to replace the present one.
pub fn read_update(mut f: Fields) -> ApiResult<(ClusterSpec, SigningCa)> {
    f.only("Name", &[json!(NAME)], "the cluster is always named default")?;
    let mut orchestration = f.object("Orchestration")?;
    let history = orchestration.opt_i64("TaskHistoryRetentionLimit")?;
    orchestration.refuse_rest(&[])?;
    let mut raft = f.object("Raft")?;
    let snapshot_interval = raft.opt_u64("SnapshotInterval")?.filter(|n| *n != 0);
    let fixed = "Skep chooses it; leave it out";
    let keep_old_snapshots = raft.u64("KeepOldSnapshots")?;
    raft.only("LogEntriesForSlowFollowers", &[json!(SLOW_FOLLOWERS)], fixed)?;
    raft.only("ElectionTick", &[json!(ELECTION_TICK)], fixed)?;
    raft.only("HeartbeatTick", &[json!(HEARTBEAT_TICK)], fixed)?;
    raft.refuse_rest(&[])?;
    let mut dispatcher = f.object("Dispatcher")?;
    let heartbeat_ns = dispatcher.u64("HeartbeatPeriod")?;
    if heartbeat_ns != 0 && heartbeat_ns < 100_000_000 {
        return Err(ApiError::bad_request("Dispatcher.HeartbeatPeriod is too short: give at least 100ms"));
    }
    dispatcher.refuse_rest(&[])?;
    let mut ca = f.object("CAConfig")?;
    let expiry_ns = ca.u64("NodeCertExpiry")?;
    if expiry_ns != 0 && expiry_ns < 3_600_000_000_000 {
        return Err(ApiError::bad_request(
            "CAConfig.NodeCertExpiry is too short: minimum certificate expiry time is 1h0m0s",
        ));
    }
    let force_rotate = ca.u64("ForceRotate")?;
    let root = SigningCa { cert: ca.string("SigningCACert")?, key: ca.string("SigningCAKey")? };
    let external_cas =
        ca.objects("ExternalCAs")?.into_iter().map(read_external_ca).collect::<ApiResult<_>>()?;
    ca.refuse_rest(&[])?;
    let mut encryption = f.object("EncryptionConfig")?;
    let autolock = encryption.bool("AutoLockManagers")?;
    encryption.refuse_rest(&[])?;
    let labels = f.string_map("Labels")?;
    f.refuse_rest(&[("TaskDefaults", "name the log driver in each service")])?;
    let spec = ClusterSpec {
        annotations: Some(Annotations { name: NAME.into(), labels }),
        task_history_limit: history.unwrap_or(defaults::TASK_HISTORY),
        heartbeat_ms: match heartbeat_ns {
            0 => defaults::HEARTBEAT.as_millis() as u64,
            ns => ns / 1_000_000,
        },
        cert_expiry_s: match expiry_ns {
            0 => defaults::CERT_EXPIRY.as_secs(),
            ns => ns / 1_000_000_000,
        },
        snapshot_interval: snapshot_interval.unwrap_or(defaults::SNAPSHOT_INTERVAL),
        autolock,
        force_rotate,
        external_cas,
        keep_old_snapshots,
    };
    Ok((spec, root))
}

fn read_external_ca(mut f: Fields) -> ApiResult<ExternalCa> {
    let ca = ExternalCa {
        protocol: f.string("Protocol")?,
        url: f.string("URL")?,
        options: f.string_map("Options")?,
        ca_pem: f.string("CACert")?,
    };
    f.refuse_rest(&[])?;
    Ok(ca)
}

fn external_ca(ca: &ExternalCa) -> Value {
    let mut out = json!({ "Protocol": ca.protocol, "URL": ca.url, "CACert": ca.ca_pem });
    if !ca.options.is_empty() {
        out["Options"] = json!(ca.options);
    }
    out
}

fn spec(s: &ClusterSpec) -> Value {
    let annotations = s.annotations.clone().unwrap_or_default();
    let mut out = json!({
        "Name": NAME,
        "Labels": annotations.labels,
        "Orchestration": { "TaskHistoryRetentionLimit": s.task_history_limit },
        "Raft": {
            "SnapshotInterval": s.snapshot_interval,
            "KeepOldSnapshots": s.keep_old_snapshots,
            "LogEntriesForSlowFollowers": SLOW_FOLLOWERS,
            "ElectionTick": ELECTION_TICK,
            "HeartbeatTick": HEARTBEAT_TICK,
        },
        "Dispatcher": { "HeartbeatPeriod": s.heartbeat_ms.saturating_mul(1_000_000) },
        "CAConfig": { "NodeCertExpiry": s.cert_expiry_s.saturating_mul(1_000_000_000) },
        "TaskDefaults": {},
        "EncryptionConfig": { "AutoLockManagers": s.autolock },
    });
    if !s.external_cas.is_empty() {
        out["CAConfig"]["ExternalCAs"] = s.external_cas.iter().map(external_ca).collect();
    }
    if s.force_rotate != 0 {
        out["CAConfig"]["ForceRotate"] = s.force_rotate.into();
    }
    out
}

/// A cluster as `info` shows it: without its join tokens.
pub fn cluster_info(c: &Cluster) -> Value {
    json!({
        "ID": c.id,
        "Version": version(c.meta.as_ref()),
        "CreatedAt": created(c.meta.as_ref()),
        "UpdatedAt": updated(c.meta.as_ref()),
        "Spec": spec(&c.spec.clone().unwrap_or_default()),
        "TLSInfo": tls_info(c.tls.as_ref()),
        "RootRotationInProgress": c.root_rotation.is_some(),
        "DefaultAddrPool": c.address_pools,
        "SubnetSize": c.subnet_size,
        "DataPathPort": c.data_path_port,
    })
}

/// `GET /swarm`.
pub fn cluster(c: &Cluster) -> Value {
    let mut out = cluster_info(c);
    out["JoinTokens"] = json!({ "Worker": c.worker_token, "Manager": c.manager_token });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_as_the_client_sends_it() {
        let body = br#"{"ListenAddr":"0.0.0.0:2377","AdvertiseAddr":"10.0.0.1","DataPathAddr":"","DataPathPort":0,
            "DefaultAddrPool":null,"ForceNewCluster":false,"SubnetSize":24,"AutoLockManagers":false,"Availability":"active",
            "Spec":{"Labels":null,"Orchestration":{},"Raft":{"ElectionTick":0,"HeartbeatTick":0},"Dispatcher":{},
            "CAConfig":{},"TaskDefaults":{},"EncryptionConfig":{"AutoLockManagers":false}}}"#;
        let request = read_init(body).expect("valid");
        assert_eq!(request.advertise_addr, "10.0.0.1");
        assert_eq!(request.subnet_size, 0);
        assert_eq!(request.spec.task_history_limit, defaults::TASK_HISTORY);
        assert_eq!(request.spec.heartbeat_ms, 2000);
    }

    #[test]
    fn a_specification_reads_back_the_same() {
        let c = ClusterSpec {
            annotations: Some(Annotations { name: NAME.into(), labels: [("a".into(), "b".into())].into() }),
            task_history_limit: 0,
            heartbeat_ms: 3000,
            cert_expiry_s: 7200,
            snapshot_interval: 7,
            autolock: true,
            force_rotate: 3,
            external_cas: vec![ExternalCa {
                protocol: "cfssl".into(),
                url: "https://ca.example/sign".into(),
                options: [("a".into(), "b".into())].into(),
                ca_pem: "C".into(),
            }],
            keep_old_snapshots: 2,
        };
        assert_eq!(read_spec(Fields::of(spec(&c), "").expect("object")), Ok(c));
    }

    #[test]
    fn wrong_requests_are_refused_by_name() {
        for (body, text) in [
            (r#"{"ForceNewCluster":true,"AutoLockManagers":true}"#, "Spec"),
            (r#"{"Availability":"gone"}"#, "Availability"),
            (r#"{"DataPathPort":80}"#, "DataPathPort"),
            (r#"{"ForceNewCluster":true,"DataPathPort":5000}"#, "DataPathPort"),
            (r#"{"ForceNewCluster":true,"Spec":{"Dispatcher":{"HeartbeatPeriod":9000000000}}}"#, "Spec"),
            (r#"{"Spec":{"CAConfig":{"NodeCertExpiry":5}}}"#, "CAConfig.NodeCertExpiry"),
            (r#"{"Spec":{"CAConfig":{"SigningCACert":"c"}}}"#, "CAConfig.SigningCACert"),
        ] {
            let e = read_init(body.as_bytes()).expect_err(body);
            assert!(e.message.contains(text), "{}", e.message);
        }
        assert!(read_unlock(br#"{"Key":"k"}"#).is_err());
        assert!(read_join(br#"{"JoinToken":"t"}"#).is_err());
        assert!(read_join(br#"{"RemoteAddrs":["a"]}"#).is_err());
    }
}
