//! What each request makes of the roots, and that a refused one changes nothing it is asked about.

use skep_identity::{Host, RootCa};
use skep_proto::v1;

use super::{Asked, apply};

fn cluster() -> v1::Cluster {
    let root = RootCa::generate(&Host::system(), "c".into()).expect("root");
    v1::Cluster {
        id: "c".into(),
        spec: Some(v1::ClusterSpec::default()),
        root_ca_pem: root.cert_pem().into(),
        root_key_pem: root.key_pem().into(),
        ..Default::default()
    }
}

fn force(cluster: &mut v1::Cluster) -> Result<(), tonic::Status> {
    cluster.spec.get_or_insert_default().force_rotate += 1;
    apply(&Host::system(), cluster, &Asked { cert: "", key: "" })
}

fn bring(cluster: &mut v1::Cluster, cert: &str, key: &str) -> Result<(), tonic::Status> {
    apply(&Host::system(), cluster, &Asked { cert, key })
}

fn next(cluster: &v1::Cluster) -> &str {
    &cluster.root_rotation.as_ref().expect("a rotation").ca_pem
}

/// What a rotation leads to is known to those who trust the present root only.
fn known(cluster: &v1::Cluster) {
    let rotation = cluster.root_rotation.as_ref().expect("a rotation");
    let root = RootCa::from_pem(&Host::system(), &"c".into(), &rotation.ca_pem, &rotation.key_pem);
    let root = root.expect("root").cross_signed(&rotation.cross_signed_pem);
    root.try_out(&[&cluster.root_ca_pem, &rotation.ca_pem]).expect("known");
}

#[test]
fn a_root_of_its_own_making_once_for_each_number() {
    let mut c = cluster();
    bring(&mut c, "", "").expect("nothing asked");
    assert!(c.root_rotation.is_none() && c.trust_epoch == 0);
    force(&mut c).expect("begun");
    known(&c);
    let first = next(&c).to_owned();
    let same = c.clone();
    bring(&mut c, "", "").expect("the same number");
    assert_eq!(c, same);
    // Another one, signed by the root that all nodes know still.
    force(&mut c).expect("begun anew");
    known(&c);
    assert!(next(&c) != first && c.trust_epoch == 2 && c.last_forced_rotation == 2);
}

#[test]
fn a_root_that_is_brought() {
    let mut c = cluster();
    let (present, key) = (c.root_ca_pem.clone(), c.root_key_pem.clone());
    let other = RootCa::generate(&Host::system(), "c".into()).expect("root");
    bring(&mut c, other.cert_pem(), other.key_pem()).expect("begun");
    known(&c);
    let under_way = c.clone();
    bring(&mut c, other.cert_pem(), other.key_pem()).expect("that is where it leads");
    assert_eq!(c, under_way);
    for (cert, key, says) in [
        ("", other.key_pem(), "signing CA cert must also be provided"),
        (other.cert_pem(), key.as_str(), "not the key of the root certificate"),
        ("garbage", "garbage", "CA certificate"),
        (&format!("{present}{}", other.cert_pem()), other.key_pem(), "2 certificates"),
    ] {
        let refusal = bring(&mut c, cert, key).expect_err(says);
        assert!(refusal.message().contains(says), "{refusal}");
        assert_eq!(c, under_way);
    }
    // The present root ends it.
    bring(&mut c, &present, &key).expect("aborted");
    assert!(c.root_rotation.is_none() && c.trust_epoch == 2 && c.root_key_pem == key);
}

#[test]
fn keys_that_managers_do_not_have() {
    let mut c = cluster();
    let other = RootCa::generate(&Host::system(), "c".into()).expect("root");
    bring(&mut c, other.cert_pem(), "").expect("an external CA has it");
    assert!(c.root_rotation.as_ref().is_some_and(|r| r.key_pem.is_empty()));
    let rotation = c.root_rotation.take().expect("a rotation");
    (c.root_ca_pem, c.root_key_pem) = (rotation.ca_pem, rotation.key_pem);
    let refusal = force(&mut c).expect_err("nothing to sign the new root with");
    assert!(refusal.message().contains("present root's key is needed"), "{refusal}");
    let third = RootCa::generate(&Host::system(), "c".into()).expect("root");
    let refusal = bring(&mut c, third.cert_pem(), "").expect_err("two of them");
    assert!(refusal.message().contains("one external CA to a different external CA"), "{refusal}");
    bring(&mut c, other.cert_pem(), other.key_pem()).expect("the key comes");
    assert_eq!(c.root_key_pem, other.key_pem());
    force(&mut c).expect("begun");
    known(&c);
}
