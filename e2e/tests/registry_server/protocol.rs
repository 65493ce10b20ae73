//! The distribution specification, request by request.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::server::{Served, digest, manifest, part, random};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn served() -> Result<(tempfile::TempDir, Served)> {
    let dir = tempfile::tempdir()?;
    let served = Served::start(&dir.path().join("data"), &[])?;
    Ok((dir, served))
}

#[test]
fn blobs_go_up_in_pieces_and_come_down_in_parts() -> Result<()> {
    let (_dir, r) = served()?;
    let base = r.ask("GET", "/v2/", &[], b"")?;
    ensure!(
        base.status == 200 && base.header("docker-distribution-api-version") == Some("registry/2.0"),
        "{base:?}"
    );
    let bytes = random(100_000);
    let whole = digest(&bytes);
    let at = r.begin("team/app")?;

    // Pieces in their order, and no other.
    let piece = |start: usize, end: usize| {
        let range = format!("Content-Range: {start}-{}", end - 1);
        r.ask("PATCH", &at, &[&range], &bytes[start..end])
    };
    let first = piece(0, 40_000)?;
    ensure!(first.status == 202 && first.header("range") == Some("0-39999"), "{first:?}");
    for (start, end) in [(50_000, 60_000), (0, 40_000), (39_999, 50_000)] {
        let answer = piece(start, end)?;
        ensure!(answer.status == 416 && answer.code() == "RANGE_INVALID", "{start}: {answer:?}");
        ensure!(answer.header("range") == Some("0-39999"), "{answer:?}");
    }
    let lie = r.ask("PATCH", &at, &["Content-Range: 40000-40009"], b"123")?;
    ensure!(lie.status == 400 && lie.code() == "SIZE_INVALID", "{lie:?}");
    let status = r.ask("GET", &at, &[], b"")?;
    ensure!(status.status == 204 && status.header("range") == Some("0-39999"), "{status:?}");
    ensure!(status.header("docker-upload-uuid").is_some_and(|id| at.ends_with(id)), "{status:?}");
    ensure!(piece(40_000, 90_000)?.status == 202);
    for (query, code) in [
        ("", "DIGEST_INVALID"),
        ("?digest=md5:00", "DIGEST_INVALID"),
        ("?digest=sha512:00", "DIGEST_INVALID"),
    ] {
        let answer = r.ask("PUT", &format!("{at}{query}"), &[], b"")?;
        ensure!(answer.status == 400 && answer.code() == code, "{query}: {answer:?}");
    }
    // The last piece comes with the digest.
    let put = format!("{at}?digest={}", whole.replace(':', "%3A"));
    let done = r.ask("PUT", &put, &["Content-Range: 90000-99999"], &bytes[90_000..])?;
    ensure!(done.status == 201, "{done:?}");
    let url = format!("/v2/team/app/blobs/{whole}");
    ensure!(
        done.header("location") == Some(url.as_str())
            && done.header("docker-content-digest") == Some(whole.as_str()),
        "{done:?}"
    );
    ensure!(r.ask("GET", &at, &[], b"")?.code() == "BLOB_UPLOAD_UNKNOWN", "it is over");

    // Another digest than what came: refused, and over.
    let at = r.begin("team/app")?;
    let wrong = r.ask("PUT", &format!("{at}?digest={}", digest(b"else")), &[], b"something")?;
    ensure!(wrong.status == 400 && wrong.code() == "DIGEST_INVALID", "{wrong:?}");
    ensure!(r.ask("GET", &at, &[], b"")?.status == 404);
    let at_once = format!("/v2/team/app/blobs/uploads/?digest={}", digest(b"else"));
    ensure!(r.ask("POST", &at_once, &[], b"something")?.code() == "DIGEST_INVALID");
    let at = r.begin("team/app")?;
    ensure!(
        r.ask("GET", &at.replace("team/app", "team/other"), &[], b"")?.status == 404,
        "another repository's"
    );
    ensure!(r.ask("DELETE", &at, &[], b"")?.status == 204 && r.ask("DELETE", &at, &[], b"")?.status == 404);

    for (range, status, told, body) in [
        ("bytes=0-9", 206, "bytes 0-9/100000", &bytes[..10]),
        ("bytes=99990-", 206, "bytes 99990-99999/100000", &bytes[99_990..]),
        ("bytes=-5", 206, "bytes 99995-99999/100000", &bytes[99_995..]),
        ("bytes=100000-", 416, "bytes */100000", &[]),
        ("bytes=0-1,5-6", 200, "", &bytes[..]),
    ] {
        let answer = r.ask("GET", &url, &[&format!("Range: {range}")], b"")?;
        ensure!(
            answer.status == status && answer.header("content-range").unwrap_or_default() == told,
            "{range}: {}",
            answer.status
        );
        ensure!(status == 416 || answer.body == body, "{range}: other bytes");
    }
    let head = r.ask("HEAD", &url, &[], b"")?;
    ensure!(
        head.status == 200 && head.header("content-length") == Some("100000") && head.body.is_empty(),
        "{head:?}"
    );
    let known = r.ask("GET", &url, &[&format!("If-None-Match: \"{whole}\"")], b"")?;
    ensure!(known.status == 304 && known.body.is_empty(), "{known:?}");

    // Taken over from another repository, or sent.
    let mount = |from: &str, digest: &str| {
        r.ask("POST", &format!("/v2/team/other/blobs/uploads/?mount={digest}&from={from}"), &[], b"")
    };
    ensure!(r.ask("HEAD", &url.replace("team/app", "team/other"), &[], b"")?.status == 404, "not its own");
    for (from, digest, status) in [
        ("team/none", &whole, 202),
        ("..%2F..", &whole, 202),
        ("team%2Fapp", &digest(b"no"), 202),
        ("team%2Fapp", &whole, 201),
    ] {
        ensure!(mount(from, digest)?.status == status, "{from} {digest}");
    }
    ensure!(r.ask("GET", &url.replace("team/app", "team/other"), &[], b"")?.body == bytes);
    Ok(())
}

#[test]
fn manifests_tags_and_lists() -> Result<()> {
    let (dir, r) = served()?;
    let (config, layer) = (b"{}".as_slice(), b"layer".as_slice());
    r.push_blob("team/app", config)?;
    let image = manifest(config, layer);
    let absent = r.push_manifest("team/app", "1", &image)?;
    ensure!(absent.status == 400 && absent.code() == "MANIFEST_BLOB_UNKNOWN", "{absent:?}");
    r.push_blob("team/app", layer)?;
    let mut liar = image.clone();
    liar["layers"][0]["size"] = 4.into();
    ensure!(r.push_manifest("team/app", "1", &liar)?.code() == "MANIFEST_INVALID");
    for tag in ["1", "2", "latest"] {
        let pushed = r.push_manifest("team/app", tag, &image)?;
        ensure!(pushed.status == 201, "{pushed:?}");
    }
    let by_digest = digest(image.to_string().as_bytes());
    for (reference, code, status) in [
        (digest(b"else").as_str(), "DIGEST_INVALID", 400),
        ("sha256:short", "DIGEST_INVALID", 400),
        (".tag", "TAG_INVALID", 400),
        (&"x".repeat(129), "TAG_INVALID", 400),
    ] {
        let answer = r.push_manifest("team/app", reference, &image)?;
        ensure!(answer.status == status && answer.code() == code, "{reference}: {answer:?}");
    }
    for bad in ["", "[]", "{}", "nonsense", "{\"schemaVersion\":1}"] {
        let answer = r.ask(
            "PUT",
            "/v2/team/app/manifests/bad",
            &[&format!("Content-Type: {MANIFEST}")],
            bad.as_bytes(),
        )?;
        ensure!(answer.status == 400 && answer.code() == "MANIFEST_INVALID", "{bad}: {answer:?}");
    }
    let long = r.ask("PUT", "/v2/team/app/manifests/long", &[], &vec![b' '; (4 << 20) + 1])?;
    ensure!(long.status == 413 && long.code() == "SIZE_INVALID", "{long:?}");
    for reference in ["1", &by_digest] {
        let answer = r.ask("GET", &format!("/v2/team/app/manifests/{reference}"), &[], b"")?;
        ensure!(answer.status == 200 && answer.body == image.to_string().as_bytes(), "{answer:?}");
        ensure!(
            answer.header("content-type") == Some(MANIFEST)
                && answer.header("docker-content-digest") == Some(&by_digest),
            "{answer:?}"
        );
        let head = r.ask("HEAD", &format!("/v2/team/app/manifests/{reference}"), &[], b"")?;
        ensure!(
            head.status == 200
                && head.body.is_empty()
                && head.header("content-length") == answer.header("content-length"),
            "{head:?}"
        );
    }
    for (path, code) in [
        ("/v2/team/app/manifests/none", "MANIFEST_UNKNOWN"),
        ("/v2/team/app/manifests/.INVALID", "MANIFEST_UNKNOWN"),
        ("/v2/team/none/tags/list", "NAME_UNKNOWN"),
        ("/v2/Team/app/tags/list", "NAME_INVALID"),
        ("/v2/team/../app/tags/list", "NAME_INVALID"),
        ("/v2/team/%2e%2e/app/tags/list", "NAME_INVALID"),
    ] {
        let answer = r.ask("GET", path, &[], b"")?;
        ensure!(answer.code() == code, "{path}: {answer:?}");
    }
    for (method, path) in
        [("POST", "/v2/"), ("PATCH", "/v2/team/app/manifests/1"), ("PUT", "/v2/team/app/tags/list")]
    {
        let answer = r.ask(method, path, &[], b"")?;
        ensure!(
            answer.status == 405 && answer.code() == "UNSUPPORTED" && answer.header("allow").is_some(),
            "{answer:?}"
        );
    }

    // An index of what is there, and not of what is not.
    let text = image.to_string();
    let index =
        |parts: Vec<serde_json::Value>| json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": parts });
    let good = index(vec![part(MANIFEST, text.as_bytes())]);
    ensure!(r.push_manifest("team/app", "both", &good)?.status == 201);
    ensure!(
        r.push_manifest("team/app", "none", &index(vec![part(MANIFEST, b"none")]))?.code()
            == "MANIFEST_BLOB_UNKNOWN"
    );

    let tags = |query: &str| -> Result<(String, Option<String>)> {
        let answer = r.ask("GET", &format!("/v2/team/app/tags/list{query}"), &[], b"")?;
        let all = answer.json()?["tags"]
            .as_array()
            .context("tags")?
            .iter()
            .filter_map(|t| t.as_str())
            .collect::<Vec<_>>()
            .join(" ");
        Ok((all, answer.header("link").map(str::to_owned)))
    };
    ensure!(tags("")? == ("1 2 both latest".into(), None));
    ensure!(
        tags("?n=2")? == ("1 2".into(), Some("</v2/team/app/tags/list?last=2&n=2>; rel=\"next\"".into()))
    );
    ensure!(tags("?last=2&n=2")? == ("both latest".into(), None));
    ensure!(tags("?n=0")?.0.is_empty());
    ensure!(r.ask("GET", "/v2/team/app/tags/list?n=-1", &[], b"")?.code() == "PAGINATION_NUMBER_INVALID");
    for name in ["a", "team/app/below"] {
        r.push_blob(name, config)?;
        r.push_blob(name, layer)?;
        ensure!(r.push_manifest(name, "1", &image)?.status == 201);
    }
    let catalog = r.ask("GET", "/v2/_catalog?n=2", &[], b"")?;
    ensure!(catalog.json()? == json!({ "repositories": ["a", "team/app"] }), "{catalog:?}");
    ensure!(
        catalog.header("link") == Some("</v2/_catalog?last=team%2Fapp&n=2>; rel=\"next\""),
        "{catalog:?}"
    );
    ensure!(
        r.ask("GET", "/v2/_catalog?last=team%2Fapp", &[], b"")?.json()?
            == json!({ "repositories": ["team/app/below"] })
    );

    // What says something about an image.
    let about = |kind: &str| {
        let mut one = manifest(config, layer);
        one["artifactType"] = kind.into();
        one["subject"] = part(MANIFEST, text.as_bytes());
        one["annotations"] = json!({ "by": "me" });
        one
    };
    for kind in ["application/x.sbom", "application/x.signature"] {
        let one = about(kind);
        let pushed = r.push_manifest("team/app", &digest(one.to_string().as_bytes()), &one)?;
        ensure!(pushed.status == 201 && pushed.header("oci-subject") == Some(&by_digest), "{pushed:?}");
    }
    let all = r.ask("GET", &format!("/v2/team/app/referrers/{by_digest}"), &[], b"")?;
    ensure!(
        all.header("content-type") == Some(INDEX)
            && all.json()?["manifests"].as_array().map(Vec::len) == Some(2),
        "{all:?}"
    );
    let one = r.ask(
        "GET",
        &format!("/v2/team/app/referrers/{by_digest}?artifactType=application/x.sbom"),
        &[],
        b"",
    )?;
    ensure!(one.header("oci-filters-applied") == Some("artifactType"), "{one:?}");
    let shown = one.json()?;
    ensure!(shown["manifests"].as_array().map(Vec::len) == Some(1), "{shown}");
    ensure!(
        shown["manifests"][0]["annotations"]["by"] == "me"
            && shown["manifests"][0]["artifactType"] == "application/x.sbom",
        "{shown}"
    );
    let none = r.ask("GET", &format!("/v2/team/app/referrers/{}", digest(b"none")), &[], b"")?;
    ensure!(none.status == 200 && none.json()?["manifests"] == json!([]), "{none:?}");

    deleted_and_collected(&dir.path().join("data"), &r, &by_digest)
}

/// What nothing names any more is collected while the registry serves; what is named stays.
fn deleted_and_collected(data: &std::path::Path, r: &Served, image: &str) -> Result<()> {
    let gc = |more: &[&str]| -> Result<serde_json::Value> {
        let (skep, _) = skep_e2e::swarm::binaries()?;
        // By the clock of files, which ticks every 10 ms at the slowest, all that was done is in the past.
        std::thread::sleep(std::time::Duration::from_millis(20));
        let mut command = std::process::Command::new(skep);
        command.args(["registry", "gc", "--format", "json", "--data-dir"]).arg(data).args(more);
        let out = command.output()?;
        ensure!(out.status.success(), "{out:?}");
        Ok(serde_json::from_slice(&out.stdout)?)
    };
    let nothing = json!({ "blobs": [], "bytes": 0, "links": [], "manifests": [] });
    ensure!(gc(&["--grace", "0s"])? == nothing, "all is named");
    let lone = r.push_blob("team/app", b"lone")?;
    ensure!(gc(&[])? == nothing, "it may be part of a push");
    ensure!(r.ask("DELETE", "/v2/team/app/manifests/2", &[], b"")?.status == 202);
    ensure!(r.ask("GET", "/v2/team/app/manifests/2", &[], b"")?.status == 404);
    ensure!(r.ask("GET", "/v2/team/app/manifests/1", &[], b"")?.status == 200, "another tag stays");
    let found = gc(&["--grace", "0s", "--dry-run"])?;
    ensure!(found["blobs"] == json!([lone]) && found["bytes"] == 4, "{found}");
    ensure!(r.ask("HEAD", &format!("/v2/team/app/blobs/{lone}"), &[], b"")?.status == 200, "only looked");
    ensure!(gc(&["--grace", "0s"])?["blobs"] == json!([lone]));
    ensure!(r.ask("HEAD", &format!("/v2/team/app/blobs/{lone}"), &[], b"")?.status == 404, "it is gone");

    // The image goes with its tags; its index and what was said about it were pushed by themselves.
    ensure!(r.ask("DELETE", &format!("/v2/team/app/manifests/{image}"), &[], b"")?.status == 202);
    for tag in ["1", "latest"] {
        ensure!(r.ask("GET", &format!("/v2/team/app/manifests/{tag}"), &[], b"")?.status == 404, "{tag}");
    }
    ensure!(
        r.ask("DELETE", &format!("/v2/team/app/manifests/{image}"), &[], b"")?.code() == "MANIFEST_UNKNOWN"
    );
    let found = gc(&["--grace", "0s", "--delete-untagged"])?;
    ensure!(found["manifests"].as_array().map(Vec::len) == Some(2), "what was said about it: {found}");
    ensure!(found["blobs"].as_array().is_some_and(|b| !b.contains(&json!(image))), "others name it: {found}");
    for name in ["a", "team/app/below"] {
        ensure!(r.ask("GET", &format!("/v2/{name}/manifests/1"), &[], b"")?.status == 200);
        let layer = digest(b"layer");
        ensure!(r.ask("GET", &format!("/v2/{name}/blobs/{layer}"), &[], b"")?.body == b"layer");
        ensure!(r.ask("DELETE", &format!("/v2/{name}/manifests/{image}"), &[], b"")?.status == 202);
        ensure!(r.ask("DELETE", &format!("/v2/{name}/blobs/{layer}"), &[], b"")?.status == 202);
        ensure!(r.ask("DELETE", &format!("/v2/{name}/blobs/{layer}"), &[], b"")?.code() == "BLOB_UNKNOWN");
    }
    gc(&["--grace", "0s", "--delete-untagged"])?;
    let catalog = r.ask("GET", "/v2/_catalog", &[], b"")?.json()?;
    ensure!(catalog == json!({ "repositories": ["team/app"] }), "the others are empty: {catalog}");
    Ok(())
}
