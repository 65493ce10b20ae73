//! `manifest`: lists of images for several platforms, put together here and pushed to a registry. As with Docker's
//! client, this asks registries itself; a list in the making lies below the directory of the client's configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skep_engine::Reference;
use skep_registry::{
    Access, Descriptor, Document, Fetched, MANIFEST_TYPES, Mounted, Options, Platform, Registries, Session,
    media,
};

use super::api::Api;
use super::output::{bytes, say};

/// `manifest`.
#[derive(Subcommand)]
pub enum Manifests {
    /// Add additional information to a local image manifest
    Annotate(AnnotateArgs),
    /// Create a local manifest list for annotating and pushing to a registry
    Create {
        /// Amend an existing manifest list
        #[arg(short, long)]
        amend: bool,
        /// Allow communication with an insecure registry
        #[arg(long)]
        insecure: bool,
        #[arg(value_name = "MANIFEST_LIST")]
        list: String,
        #[arg(required = true, value_name = "MANIFEST")]
        manifests: Vec<String>,
    },
    /// Display an image manifest, or manifest list
    Inspect {
        /// Allow communication with an insecure registry
        #[arg(long)]
        insecure: bool,
        /// Output additional info including layers and platform
        #[arg(short, long)]
        verbose: bool,
        #[arg(required = true, num_args = 1..=2, value_name = "[MANIFEST_LIST] MANIFEST")]
        names: Vec<String>,
    },
    /// Push a manifest list to a repository
    Push {
        /// Allow push to an insecure registry
        #[arg(long)]
        insecure: bool,
        /// Remove the local manifest list after push
        #[arg(short, long)]
        purge: bool,
        #[arg(value_name = "MANIFEST_LIST")]
        list: String,
    },
    /// Delete one or more manifest lists from local storage
    Rm {
        #[arg(required = true, value_name = "MANIFEST_LIST")]
        lists: Vec<String>,
    },
}

/// Flags of `manifest annotate`.
#[derive(Args)]
pub struct AnnotateArgs {
    /// Set architecture
    #[arg(long, value_name = "string")]
    arch: Option<String>,
    /// Set operating system
    #[arg(long, value_name = "string")]
    os: Option<String>,
    /// Set operating system feature
    #[arg(long, value_name = "strings", value_delimiter = ',')]
    os_features: Vec<String>,
    /// Set operating system version
    #[arg(long, value_name = "string")]
    os_version: Option<String>,
    /// Set architecture variant
    #[arg(long, value_name = "string")]
    variant: Option<String>,
    #[arg(value_name = "MANIFEST_LIST")]
    list: String,
    #[arg(value_name = "MANIFEST")]
    manifest: String,
}

/// One image of a list in the making.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "Ref")]
    reference: String,
    descriptor: Descriptor,
    /// The manifest, as the registry sent it.
    raw: String,
}

impl Entry {
    fn of(reference: &Reference, fetched: &Fetched, platform: Platform) -> Self {
        let descriptor = Descriptor {
            media_type: fetched.media_type.clone(),
            size: fetched.bytes.len() as u64,
            digest: fetched.digest.clone(),
            platform: Some(platform),
            ..Descriptor::default()
        };
        let raw = String::from_utf8_lossy(&fetched.bytes).into_owned();
        Self { reference: whole(reference), descriptor, raw }
    }
}

/// The images of a list by reference.
type List = BTreeMap<String, Entry>;

pub async fn run(api: &Api, command: Manifests) -> Result<()> {
    match command {
        Manifests::Create { amend, insecure, list, manifests } => {
            let name = parse(&list)?;
            let file = file(api, &name)?;
            if file.exists() && !amend {
                bail!("refusing to amend an existing manifest list with no --amend flag");
            }
            let mut entries = read(&file)?.unwrap_or_default();
            for manifest in manifests {
                let reference = parse(&manifest)?;
                let (_, entry) = image(api, &reference, insecure).await?;
                entries.insert(whole(&reference), entry);
            }
            write(&file, &entries)?;
            say!("Created manifest list {}", whole(&name))
        }
        Manifests::Annotate(args) => annotate(api, &args),
        Manifests::Inspect { insecure, verbose, names } => inspect(api, &names, insecure, verbose).await,
        Manifests::Push { insecure, purge, list } => {
            let name = parse(&list)?;
            let file = file(api, &name)?;
            let entries = read(&file)?.with_context(|| format!("No such manifest: {}", whole(&name)))?;
            push(api, &name, &entries, insecure).await?;
            if purge { Ok(std::fs::remove_file(&file)?) } else { Ok(()) }
        }
        Manifests::Rm { lists } => {
            super::each(&lists, async |list| {
                let name = parse(&list)?;
                let file = file(api, &name)?;
                std::fs::remove_file(&file).with_context(|| format!("No such manifest: {}", whole(&name)))
            })
            .await
        }
    }
}

fn parse(text: &str) -> Result<Reference> {
    Ok(Reference::parse(text)?.or_latest())
}

/// With registry and tag.
fn whole(reference: &Reference) -> String {
    super::images::full_name(&reference.to_string())
}

fn file(api: &Api, list: &Reference) -> Result<PathBuf> {
    let store = api.store()?;
    let dir = store.path().parent().context("the configuration lies in a directory")?.join("manifests");
    Ok(dir.join(format!("{}.skep.json", whole(list).replace(['/', ':', '@'], "_"))))
}

fn read(file: &PathBuf) -> Result<Option<List>> {
    match std::fs::read(file) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("read {}", file.display()))?))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {}", file.display())),
    }
}

fn write(file: &PathBuf, list: &List) -> Result<()> {
    let failed = || format!("write {}", file.display());
    std::fs::create_dir_all(file.parent().with_context(failed)?).with_context(failed)?;
    let beside = file.with_extension(format!("{}", std::process::id()));
    std::fs::write(&beside, serde_json::to_vec_pretty(list)?).with_context(failed)?;
    std::fs::rename(&beside, file).with_context(failed)
}

async fn open(api: &Api, reference: &Reference, insecure: bool, access: Access) -> Result<Session> {
    let repository = reference.repository();
    let options = Options {
        insecure: if insecure { vec![repository.registry.clone()] } else { Vec::new() },
        certificates: ["/etc/docker/certs.d", "/etc/skep/certs.d"].map(PathBuf::from).into(),
        user_agent: format!("skep/{}", env!("CARGO_PKG_VERSION")),
        ..Options::default()
    };
    let credentials = api.store()?.get_if_possible(&repository.registry).unwrap_or_default();
    Ok(Registries::new(options).open(repository, credentials, access).await)
}

fn wanted(reference: &Reference) -> &str {
    reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest")
}

async fn fetch(session: &Session, reference: &Reference) -> Result<Fetched> {
    session.manifest(wanted(reference)).await.map_err(|e| match e {
        e if e.is_absent() => anyhow::anyhow!("no such manifest: {}", whole(reference)),
        e => e.into(),
    })
}

/// The manifest of one image, and what it runs on.
async fn image(api: &Api, reference: &Reference, insecure: bool) -> Result<(Fetched, Entry)> {
    let session = open(api, reference, insecure, Access::Pull).await?;
    let fetched = fetch(&session, reference).await?;
    let Document::Manifest { config, .. } = &fetched.document else {
        bail!("{} is a manifest list", whole(reference));
    };
    anyhow::ensure!(config.size <= 8 << 20, "the configuration of {} is too big", whole(reference));
    let platform = session.blob(&config.digest, config.size).await?;
    let platform: Platform = serde_json::from_slice(&platform).context("read the image's configuration")?;
    let entry = Entry::of(reference, &fetched, platform);
    Ok((fetched, entry))
}

fn annotate(api: &Api, args: &AnnotateArgs) -> Result<()> {
    let (list, manifest) = (parse(&args.list)?, parse(&args.manifest)?);
    let file = file(api, &list)?;
    let mut entries = read(&file)?
        .with_context(|| format!("manifest for image {} does not exist in {}", args.manifest, args.list))?;
    let entry = entries.get_mut(&whole(&manifest));
    let entry = entry
        .with_context(|| format!("manifest for image {} does not exist in {}", args.manifest, args.list))?;
    let platform = entry.descriptor.platform.get_or_insert_default();
    for (field, value) in [
        (&mut platform.os, &args.os),
        (&mut platform.architecture, &args.arch),
        (&mut platform.variant, &args.variant),
        (&mut platform.os_version, &args.os_version),
    ] {
        if let Some(value) = value {
            field.clone_from(value);
        }
    }
    for feature in &args.os_features {
        if !platform.os_features.contains(feature) {
            platform.os_features.push(feature.clone());
        }
    }
    if platform.os.is_empty() || platform.architecture.is_empty() {
        bail!(
            "manifest entry for image has unsupported os/arch combination: {}/{}",
            platform.os,
            platform.architecture
        );
    }
    write(&file, &entries)
}

async fn inspect(api: &Api, names: &[String], insecure: bool, verbose: bool) -> Result<()> {
    if let [list, manifest] = names {
        let entries =
            read(&file(api, &parse(list)?)?)?.with_context(|| format!("No such manifest: {list}"))?;
        let entry = entries
            .get(&whole(&parse(manifest)?))
            .with_context(|| format!("No such manifest: {manifest}"))?;
        return show(&if verbose { shown(entry)? } else { serde_json::from_str(&entry.raw)? });
    }
    let reference = parse(&names[0])?;
    // A list in the making comes first.
    if let Some(entries) = read(&file(api, &reference)?)? {
        return show(&if verbose { all(&entries)? } else { index(&entries) });
    }
    let session = open(api, &reference, insecure, Access::Pull).await?;
    let fetched = fetch(&session, &reference).await?;
    if !verbose {
        return show(&serde_json::from_slice(&fetched.bytes)?);
    }
    let Document::Index { manifests } = &fetched.document else {
        return show(&shown(&image(api, &reference, insecure).await?.1)?);
    };
    let mut entries = List::new();
    for d in manifests.iter().filter(|d| MANIFEST_TYPES.contains(&d.media_type.as_str())) {
        let one = Reference { tag: None, digest: Some(d.digest.clone()), ..reference.clone() };
        let entry =
            Entry::of(&one, &session.manifest(&d.digest).await?, d.platform.clone().unwrap_or_default());
        entries.insert(whole(&one), entry);
    }
    show(&all(&entries)?)
}

fn all(entries: &List) -> Result<Value> {
    Ok(entries.values().map(shown).collect::<Result<Vec<_>>>()?.into())
}

fn shown(entry: &Entry) -> Result<Value> {
    let manifest: Value = serde_json::from_str(&entry.raw)?;
    let field =
        if entry.descriptor.media_type == media::OCI_MANIFEST { "OCIManifest" } else { "SchemaV2Manifest" };
    let raw = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &entry.raw);
    Ok(json!({ "Ref": entry.reference, "Descriptor": entry.descriptor, "Raw": raw, field: manifest }))
}

/// Docker's list, or OCI's index where one of the images is OCI's.
fn index(entries: &List) -> Value {
    let oci = entries.values().any(|e| e.descriptor.media_type == media::OCI_MANIFEST);
    let manifests: Vec<&Descriptor> = entries.values().map(|e| &e.descriptor).collect();
    let kind = if oci { media::OCI_INDEX } else { media::DOCKER_LIST };
    json!({ "schemaVersion": 2, "mediaType": kind, "manifests": manifests })
}

fn show(value: &Value) -> Result<()> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    text.push(b'\n');
    bytes(&mut std::io::stdout(), &text)
}

/// Images of other repositories of the registry are taken over first: the list may only name what is beside it.
async fn push(api: &Api, list: &Reference, entries: &List, insecure: bool) -> Result<()> {
    let session = open(api, list, insecure, Access::Push).await?;
    for entry in entries.values() {
        let from = Reference::parse(&entry.reference)?.repository();
        let target = session.repository();
        if from.registry != target.registry {
            bail!(
                "cannot use source images from a different registry than the target image: {} != {}",
                from.registry,
                target.registry
            );
        }
        if from.path == target.path {
            continue;
        }
        let fetched = Fetched::read(entry.raw.clone().into_bytes(), "", entry.descriptor.digest.clone())?;
        if let Document::Manifest { config, layers } = &fetched.document {
            for blob in layers.iter().chain([config.as_ref()]) {
                let there = session.has_blob(&blob.digest).await?;
                if !there
                    && !matches!(session.begin_upload(Some((&blob.digest, &from.path))).await?, Mounted::Done)
                {
                    bail!("blob {} could not be mounted from {}", blob.digest, from.path);
                }
            }
        }
        let digest = session.put_manifest(&fetched.digest, &fetched.media_type, &fetched.bytes).await?;
        say!("Pushed ref {}/{}@{digest} with digest: {digest}", target.registry, target.path)?;
    }
    let value = index(entries);
    let kind = value["mediaType"].as_str().unwrap_or_default().to_owned();
    let digest = session.put_manifest(wanted(list), &kind, &serde_json::to_vec_pretty(&value)?).await?;
    say!("{digest}")
}
