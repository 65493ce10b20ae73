//! The image of a service, pinned to what the registry holds under its name now, so that every node runs the same.

use anyhow::Result;
use hyper::Method;
use serde_json::{Value, json};

use super::api::{Api, Query, encode, full};
use super::images::familiar;
use super::service_spec::SpecFlags;

/// Pins the image of a spec in JSON; where no registry knows it, it is left, and a warning says so.
pub async fn pin(api: &Api, spec: &mut Value, flags: &SpecFlags) -> Result<Option<String>> {
    let task = &mut spec["TaskTemplate"];
    let Some(image) = task["ContainerSpec"]["Image"].as_str().map(familiar) else { return Ok(None) };
    task["ContainerSpec"]["Image"] = image.as_str().into();
    if flags.no_resolve_image {
        return Ok(None);
    }
    let auth = header(api, &image, flags)?;
    pin_as(api, spec, &auth).await
}

/// The same by the credentials (`X-Registry-Auth`; may be empty) that the registry is asked with.
pub async fn pin_as(api: &Api, spec: &mut Value, auth: &str) -> Result<Option<String>> {
    let task = &mut spec["TaskTemplate"];
    let Some(image) = task["ContainerSpec"]["Image"].as_str().map(familiar) else { return Ok(None) };
    task["ContainerSpec"]["Image"] = image.as_str().into();
    let found = told(api, &image, auth).await.ok();
    let Some((found, digest)) =
        found.as_ref().and_then(|f| f["Descriptor"]["digest"].as_str().map(|d| (f, d)))
    else {
        return Ok(Some(format!(
            "image {image} could not be accessed on a registry to record\nits digest. Each node will access {image} independently,\npossibly leading to different nodes running different\nversions of the image.\n"
        )));
    };
    if !image.contains('@') {
        task["ContainerSpec"]["Image"] = format!("{image}@{digest}").into();
    }
    let platforms: Vec<Value> = found["Platforms"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|p| {
            // ARM's variants are not told apart by nodes.
            let arch = p["architecture"].as_str().filter(|a| *a != "arm");
            json!({ "Architecture": arch.unwrap_or_default(), "OS": p["os"] })
        })
        .collect();
    task["Placement"]["Platforms"] = platforms.into();
    Ok(None)
}

/// What a registry, or the swarm, tells of an image.
pub async fn told(api: &Api, image: &str, auth: &str) -> Result<Value> {
    let headers = [("X-Registry-Auth", auth)];
    let headers = if auth.is_empty() { &[][..] } else { &headers[..] };
    let path = format!("/distribution/{}/json", image.split('/').map(encode).collect::<Vec<_>>().join("/"));
    let response = api.send(Method::GET, &path, &Query::new(), full(""), headers).await?;
    let bytes = http_body_util::BodyExt::collect(response.into_body()).await?.to_bytes();
    Ok(serde_json::from_slice(&bytes)?)
}

/// What agents are to pull with: only if it was asked for.
pub fn header(api: &Api, image: &str, flags: &SpecFlags) -> Result<String> {
    if flags.with_registry_auth { api.credentials_for(image) } else { Ok(String::new()) }
}
