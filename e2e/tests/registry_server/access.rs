//! Who may do what: nobody without a password or a token, and no more than the token says; TLS, and going without it.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use skep_e2e::swarm::{binaries, path};

use crate::server::{Served, digest, manifest};

/// `me:secret`, as `htpasswd -B` writes it.
pub const USERS: &str = "me:$2b$04$xjudlm5TvbK6Vx7YtQ3QweHmThhPkC.KMXD1enOMw4P0MrXtMWXCG\n";

#[test]
fn passwords() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let users = dir.path().join("htpasswd");
    std::fs::write(&users, USERS)?;
    let r =
        Served::start(&dir.path().join("data"), &["--htpasswd", path(&users), "--auth-realm", "my \"own\""])?;
    let basic = |pair: &str| format!("Authorization: Basic {}", STANDARD.encode(pair));
    let blob = format!("/v2/a/blobs/{}", digest(b"x"));
    for (method, target) in [
        ("GET", "/v2/"),
        ("GET", &blob),
        ("POST", "/v2/a/blobs/uploads/"),
        ("GET", "/v2/_catalog"),
        ("PUT", "/v2/a/manifests/1"),
    ] {
        for headers in [
            vec![],
            vec![basic("me:wrong")],
            vec![basic("you:secret")],
            vec!["Authorization: Basic x".into()],
            vec!["Authorization: Bearer x".into()],
        ] {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            let answer = r.ask(method, target, &headers, b"")?;
            ensure!(
                answer.status == 401 && answer.code() == "UNAUTHORIZED",
                "{method} {target} {headers:?}: {answer:?}"
            );
            ensure!(
                answer.header("www-authenticate") == Some("Basic realm=\"my \\\"own\\\"\""),
                "{answer:?}"
            );
        }
    }
    let me = basic("me:secret");
    ensure!(r.ask("GET", "/v2/", &[&me], b"")?.status == 200);
    ensure!(r.ask("POST", "/v2/a/blobs/uploads/", &[&me], b"")?.status == 202);
    // The file is read again.
    std::fs::write(&users, "# nobody\n")?;
    std::fs::File::open(&users)?.set_modified(SystemTime::now() + Duration::from_secs(10))?;
    ensure!(r.ask("GET", "/v2/", &[&me], b"")?.status == 401);
    Ok(())
}

/// A token server's key.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    pub fn new() -> Result<Self> {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let unspecified = |_| anyhow::anyhow!("cannot make a key");
        let key = EcdsaKeyPair::generate_pkcs8(kind, &random).map_err(unspecified)?;
        EcdsaKeyPair::from_pkcs8(kind, key.as_ref(), &random).map(Self).map_err(anyhow::Error::msg)
    }

    pub fn set(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "kid": "one", "x": x, "y": y, "use": "sig" }] })
    }

    /// `Authorization` with a token that says this.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = self.0.sign(&SystemRandom::new(), text.as_bytes()).ok().context("signs")?;
        Ok(format!("Authorization: Bearer {text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A token's claims with these grants.
pub fn claims(access: Value) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    json!({ "iss": "issuer", "aud": "registry", "sub": "me", "exp": now + 300, "nbf": now - 5, "access": access })
}

/// Flags of a registry that believes whoever signs by these keys.
pub fn by_tokens(set: &Path) -> Vec<&str> {
    vec![
        "--auth-token-realm",
        "https://auth.example/token",
        "--auth-token-service",
        "registry",
        "--auth-token-issuer",
        "issuer",
        "--auth-token-jwks",
        path(set),
    ]
}

#[test]
fn tokens() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let signer = Signer::new()?;
    let set = dir.path().join("jwks.json");
    std::fs::write(&set, signer.set().to_string())?;
    let r = Served::start(&dir.path().join("data"), &by_tokens(&set))?;
    let head = json!({ "alg": "ES256", "kid": "one", "typ": "JWT" });
    let grant =
        |name: &str, actions: &[&str]| json!({ "type": "repository", "name": name, "actions": actions });

    let bare = r.ask("GET", "/v2/", &[], b"")?;
    let challenge = "Bearer realm=\"https://auth.example/token\",service=\"registry\"";
    ensure!(bare.status == 401 && bare.header("www-authenticate") == Some(challenge), "{bare:?}");
    let push = r.ask("POST", "/v2/a/b/blobs/uploads/", &[], b"")?;
    let wanted = format!("{challenge},scope=\"repository:a/b:pull,push\"");
    ensure!(push.header("www-authenticate") == Some(&wanted), "{push:?}");

    // Tokens that are none.
    let good = claims(json!([grant("a/b", &["pull", "push"])]));
    let change = |key: &str, value: Value| {
        let mut other = good.clone();
        other[key] = value;
        other
    };
    let mut forged = signer.sign(&head, &good)?;
    forged.truncate(forged.rfind('.').context("a signature")?);
    let none = URL_SAFE_NO_PAD.encode(json!({ "alg": "none" }).to_string());
    let unsigned = format!("Authorization: Bearer {none}.{}.", URL_SAFE_NO_PAD.encode(good.to_string()));
    for token in [
        signer.sign(&head, &change("iss", "other".into()))?,
        signer.sign(&head, &change("aud", "other".into()))?,
        signer.sign(&head, &change("exp", 1.into()))?,
        signer.sign(&head, &change("nbf", 9_999_999_999u64.into()))?,
        signer.sign(&json!({ "alg": "RS256", "kid": "one" }), &good)?,
        signer.sign(&json!({ "alg": "ES256", "kid": "two" }), &good)?,
        Signer::new()?.sign(&head, &good)?,
        format!("{forged}.{}", URL_SAFE_NO_PAD.encode([0; 64])),
        unsigned,
        "Authorization: Bearer nonsense".into(),
    ] {
        let answer = r.ask("GET", "/v2/", &[&token], b"")?;
        ensure!(answer.status == 401, "{token}: {answer:?}");
        ensure!(
            answer.header("www-authenticate").is_some_and(|c| c.ends_with("error=\"invalid_token\"")),
            "{answer:?}"
        );
    }

    // As far as a token reaches.
    let several = signer.sign(&head, &change("aud", json!(["other", "registry"])))?;
    ensure!(r.ask("GET", "/v2/", &[&several], b"")?.status == 200);
    let blob = format!("/v2/a/b/blobs/{}", digest(b"{}"));
    for (access, method, target, status) in [
        (json!([]), "GET", "/v2/", 200),
        (json!([]), "GET", blob.as_str(), 401),
        (json!([grant("a/b", &["pull"])]), "GET", blob.as_str(), 404),
        (json!([grant("a/b", &["push"])]), "GET", blob.as_str(), 401),
        (json!([grant("a", &["pull"])]), "GET", blob.as_str(), 401),
        (json!([grant("a/b", &["pull"])]), "POST", "/v2/a/b/blobs/uploads/", 401),
        (json!([grant("a/b", &["pull"])]), "PUT", "/v2/a/b/manifests/1", 401),
        (json!([grant("a/b", &["pull"]), grant("a/b", &["push"])]), "POST", "/v2/a/b/blobs/uploads/", 202),
        (json!([grant("a/b", &["pull", "push"])]), "DELETE", blob.as_str(), 401),
        (json!([grant("a/b", &["delete"])]), "DELETE", blob.as_str(), 404),
        (json!([grant("a/b", &["*"])]), "DELETE", blob.as_str(), 404),
        (json!([grant("a/b", &["*"])]), "GET", "/v2/_catalog", 401),
        (json!([{ "type": "registry", "name": "catalog", "actions": ["*"] }]), "GET", "/v2/_catalog", 200),
    ] {
        let token = signer.sign(&head, &claims(access.clone()))?;
        let answer = r.ask(method, target, &[&token], b"")?;
        ensure!(answer.status == status, "{access} {method} {target}: {answer:?}");
        let said = answer.header("www-authenticate").unwrap_or_default();
        ensure!(
            (status == 401) == said.ends_with("error=\"insufficient_scope\""),
            "{access} {target}: {said}"
        );
    }

    // A blob is taken over only from where the token may read.
    let all = signer
        .sign(&head, &claims(json!([grant("a/b", &["pull", "push"]), grant("c", &["pull", "push"])])))?;
    let only = signer.sign(&head, &claims(json!([grant("c", &["pull", "push"])])))?;
    let target = format!("/v2/a/b/blobs/uploads/?digest={}", digest(b"{}"));
    ensure!(r.ask("POST", &target, &[&all], b"{}")?.status == 201);
    let mount = format!("/v2/c/blobs/uploads/?mount={}&from=a/b", digest(b"{}"));
    ensure!(r.ask("POST", &mount, &[&only], b"")?.status == 202, "to be sent");
    ensure!(r.ask("POST", &mount, &[&all], b"")?.status == 201, "taken over");
    Ok(())
}

fn fails(args: &[&str], dir: &Path, words: &str) -> Result<()> {
    let out = Command::new(binaries()?.0).args(["registry", "--data-dir", path(dir)]).args(args).output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success() && said.contains(words), "{args:?}: {said}");
    Ok(())
}

#[test]
fn tls_or_plain_where_that_is_asked_for() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    fails(&["--listen", "0.0.0.0:0"], &data, "give --tls-cert and --tls-key, or --plain-http")?;
    fails(&["--htpasswd", "/none"], &data, "cannot look at /none")?;
    fails(&["--mirror-of", "ftp://x"], &data, "want http://HOST[:PORT] or https://HOST[:PORT]")?;
    fails(&["--tls-cert", "/none"], &data, "--tls-key")?;
    fails(&["--auth-token-realm", "https://x"], &data, "--auth-token-service")?;
    let gc = ["registry", "gc", "--data-dir", "/none"];
    let out = Command::new(binaries()?.0).args(gc).output()?;
    ensure!(String::from_utf8_lossy(&out.stderr).contains("/none holds no registry"), "{out:?}");

    let key = rcgen::KeyPair::generate()?;
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?;
    let (cert_file, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert_file, cert.pem())?;
    std::fs::write(&key_file, key.serialize_pem())?;
    let r = Served::start(&data, &["--tls-cert", path(&cert_file), "--tls-key", path(&key_file)])?;
    fails(&["--listen", "127.0.0.1:0"], &data, "is served by another skep registry")?;
    let url = format!("https://{}/v2/", r.0);
    let out = Command::new("curl").args(["-sS", "--fail", "--cacert", path(&cert_file), &url]).output()?;
    ensure!(out.status.success() && out.stdout == b"{}", "{out:?}");
    let plain = r.ask("GET", "/v2/", &[], b"")?;
    ensure!(
        plain.status == 400 && plain.body.starts_with(b"Client sent an HTTP request to an HTTPS server."),
        "{plain:?}"
    );
    ensure!(!r.log()?.contains("this is plain HTTP"));
    // Another certificate is taken up, and one that is none is not.
    let other = rcgen::KeyPair::generate()?;
    let cert = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&other)?;
    let fresh = dir.path().join("fresh.pem");
    std::fs::write(&fresh, cert.pem())?;
    let curl = || Command::new("curl").args(["-sS", "--fail", "--cacert", path(&fresh), &url]).output();
    ensure!(!curl()?.status.success(), "it is not served yet");
    std::fs::write(&key_file, other.serialize_pem())?;
    ensure!(
        !curl()?.status.success() && r.log()?.contains("the certificate stays as it was"),
        "{}",
        r.log()?
    );
    std::fs::write(&cert_file, cert.pem())?;
    let out = curl()?;
    ensure!(
        out.status.success() && r.log()?.contains("the certificate was read again"),
        "{out:?} {}",
        r.log()?
    );
    drop(r);

    let r = Served::start(&data, &["--read-only"])?;
    ensure!(r.log()?.contains("this is plain HTTP"));
    for (method, target) in
        [("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/a/manifests/1"), ("DELETE", "/v2/a/manifests/1")]
    {
        let answer = r.ask(method, target, &[], manifest(b"", b"").to_string().as_bytes())?;
        ensure!(answer.status == 405 && answer.code() == "UNSUPPORTED", "{answer:?}");
    }
    ensure!(r.ask("GET", "/v2/", &[], b"")?.status == 200);
    ensure!(r.end(nix::sys::signal::Signal::SIGTERM)?.success(), "it ends by itself");
    Ok(())
}
