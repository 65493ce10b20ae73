//! Writes to secrets and configs. Once made only their labels change; one that a service names stays.

use skep_proto::v1::{self, DependencyKind};
use tonic::Status;

use super::{check_version, lookup, read};
use crate::context::Context;
use crate::store::change::{put, remove_dependency};
use crate::store::{StoreView, dependency_name, dependency_word};

/// Bytes that a secret's content stays below.
const MAX_SECRET: usize = 500 * 1024;
/// Most bytes of a config.
const MAX_CONFIG: usize = 1000 * 1024;
/// Longest name.
const MAX_NAME: usize = 64;

pub(super) async fn create(
    ctx: &Context,
    request: v1::CreateDependencyRequest,
) -> Result<v1::DependencyResponse, Status> {
    let id = ctx.new_id();
    let view = ctx.write(|view| creation(view, &request, &id)).await?;
    Ok(v1::DependencyResponse { dependency: view.dependency(&id).map(|d| shown(d)) })
}

/// What creating a secret or config changes.
pub(super) fn creation(
    view: &StoreView,
    request: &v1::CreateDependencyRequest,
    id: &str,
) -> Result<Vec<v1::Change>, Status> {
    let kind = request.kind();
    let word = dependency_word(kind);
    let spec = request.spec.clone();
    let spec = spec.ok_or_else(|| Status::invalid_argument(format!("a {word} needs a specification")))?;
    check(kind, &spec)?;
    let name = spec.annotations.as_ref().map_or("", |a| &a.name);
    if view.dependency_by_name(kind, name).is_some() {
        return Err(Status::already_exists(format!("{word} {name} already exists")));
    }
    Ok(vec![put(v1::Dependency { id: id.to_owned(), kind: kind.into(), spec: Some(spec), meta: None })])
}

pub(super) async fn update(
    ctx: &Context,
    request: v1::UpdateDependencyRequest,
) -> Result<v1::DependencyResponse, Status> {
    let kind = request.kind();
    let word = dependency_word(kind);
    let wanted =
        request.spec.ok_or_else(|| Status::invalid_argument(format!("a {word} needs a specification")))?;
    let view = ctx
        .write(|view| {
            let held = view.find_dependency(kind, &request.id).map_err(lookup)?;
            check_version(&format!("{word} {}", dependency_name(held)), held.meta.as_ref(), request.version)?;
            let mut held = v1::Dependency::clone(held);
            let mut spec = held.spec.take().unwrap_or_default();
            let annotations = wanted.annotations.clone().unwrap_or_default();
            let same = spec.annotations.as_ref().is_some_and(|a| a.name == annotations.name)
                && wanted.content.as_ref().is_none_or(|c| spec.content.as_ref() == Some(c))
                && (wanted.templating.is_empty() || wanted.templating == spec.templating);
            if !same {
                return Err(Status::invalid_argument("only updates to Labels are allowed"));
            }
            spec.annotations = Some(annotations);
            held.spec = Some(spec);
            Ok(vec![put(held)])
        })
        .await?;
    let held = view.find_dependency(kind, &request.id).map_err(lookup)?;
    Ok(v1::DependencyResponse { dependency: Some(shown(held)) })
}

pub(super) async fn remove(ctx: &Context, request: v1::RemoveDependencyRequest) -> Result<v1::Empty, Status> {
    let kind = request.kind();
    ctx.write(|view| {
        let held = view.find_dependency(kind, &request.id).map_err(lookup)?;
        let mut users: Vec<&str> = view
            .services()
            .filter(|s| !s.removing && files(s.spec.as_ref()).iter().any(|f| f.id == held.id))
            .map(|s| read::service_name(s))
            .collect();
        users.sort_unstable();
        if !users.is_empty() {
            return Err(Status::invalid_argument(format!(
                "{} '{}' is in use by the following service{}: {}",
                dependency_word(kind),
                dependency_name(held),
                if users.len() == 1 { "" } else { "s" },
                users.join(", ")
            )));
        }
        Ok(vec![remove_dependency(&held.id)])
    })
    .await?;
    Ok(v1::Empty {})
}

pub(super) fn list(
    view: &StoreView,
    request: &v1::ListDependenciesRequest,
) -> Result<Vec<v1::Dependency>, Status> {
    let kind = request.kind();
    if request.ids_or_names.is_empty() {
        return Ok(view.dependencies(kind).map(|d| shown(d)).collect());
    }
    let found = read::select(&request.ids_or_names, |r| view.find_dependency(kind, r))?;
    Ok(found.into_iter().map(|d| shown(d)).collect())
}

/// As it is told to whoever asks: a secret without what it holds.
fn shown(dependency: &v1::Dependency) -> v1::Dependency {
    let mut shown = dependency.clone();
    if shown.kind() == DependencyKind::Secret
        && let Some(spec) = &mut shown.spec
    {
        spec.content = None;
    }
    shown
}

/// The files of a service's tasks.
pub(super) fn files(spec: Option<&v1::ServiceSpec>) -> &[v1::FileReference] {
    let container = spec.and_then(|s| s.task.as_ref()).and_then(|t| t.container.as_ref());
    container.map_or(&[], |c| &c.files)
}

/// Refuses a service that names what is not there.
pub(super) fn resolve(view: &StoreView, spec: &v1::ServiceSpec) -> Result<(), Status> {
    for kind in [DependencyKind::Secret, DependencyKind::Config] {
        let there = |f: &v1::FileReference| view.dependency(&f.id).is_some_and(|d| d.kind() == kind);
        let files = files(Some(spec)).iter().filter(|f| f.kind() == kind);
        let missing: Vec<&str> = files.filter(|f| !there(f)).map(|f| f.name.as_str()).collect();
        if !missing.is_empty() {
            let s = if missing.len() == 1 { "" } else { "s" };
            let word = dependency_word(kind);
            return Err(Status::invalid_argument(format!("{word}{s} not found: {}", missing.join(", "))));
        }
    }
    Ok(())
}

fn check(kind: DependencyKind, spec: &v1::DependencySpec) -> Result<(), Status> {
    let refuse = |message: String| Err(Status::invalid_argument(message));
    let word = dependency_word(kind);
    let name = spec.annotations.as_ref().map_or("", |a| &a.name);
    if name.is_empty() {
        return refuse("name must be provided".to_owned());
    }
    let plain = |c: char| c.is_ascii_alphanumeric();
    let fits = name.len() <= MAX_NAME
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || "-_.".contains(c));
    if !fits {
        return refuse(
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
                .to_owned(),
        );
    }
    let size = spec.content.as_ref().map_or(0, |c| c.data.len());
    let (most, fits) = match kind {
        DependencyKind::Secret => (MAX_SECRET, size < MAX_SECRET),
        DependencyKind::Config => (MAX_CONFIG, size <= MAX_CONFIG),
    };
    if size == 0 || !fits {
        return refuse(format!("{word} data must be larger than 0 and less than {most} bytes"));
    }
    if !["", "golang"].contains(&spec.templating.as_str()) {
        return refuse(format!(
            "{word} template driver \"{}\" is not supported: use golang, or none",
            spec.templating
        ));
    }
    Ok(())
}

/// The files of a container, except for what depends on other objects.
pub(super) fn check_files(files: &[v1::FileReference]) -> Result<(), Status> {
    let mut targets = std::collections::BTreeMap::new();
    for file in files {
        let word = dependency_word(file.kind());
        let refuse = |message: String| Err(Status::invalid_argument(message));
        if file.id.is_empty() || file.name.is_empty() {
            return refuse(format!("malformed {word} reference"));
        }
        if file.target.is_empty() {
            return refuse(format!("malformed {word} reference, no target provided"));
        }
        if file.target.split('/').any(|part| part == "..") || file.target.ends_with('/') {
            return refuse(format!(
                "{word} {}: target \"{}\" must be the path of a file, without \"..\"",
                file.name, file.target
            ));
        }
        if file.mode > 0o7777 {
            return refuse(format!("{word} {}: mode {:o} is not a file's permissions", file.name, file.mode));
        }
        if let Some(other) = targets.insert((file.kind, &file.target), &file.name) {
            return refuse(format!(
                "{word} references '{}' and '{other}' have a conflicting target: '{}'",
                file.name, file.target
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, size: usize) -> v1::DependencySpec {
        v1::DependencySpec {
            annotations: Some(v1::Annotations { name: name.into(), ..Default::default() }),
            content: Some(v1::Content { data: vec![b'x'; size] }),
            ..Default::default()
        }
    }

    #[test]
    fn names_and_sizes_are_dockers() {
        use DependencyKind::{Config, Secret};
        let long = "n".repeat(65);
        for (kind, name, size, says) in [
            (Secret, "a", 1, ""),
            (Secret, "a.b-c_d", 512_000 - 1, ""),
            (Secret, "a", 512_000, "secret data must be larger than 0 and less than 512000 bytes"),
            (Secret, "a", 0, "larger than 0"),
            (Config, "a", 1_024_000, ""),
            (Config, "a", 1_024_001, "config data must be larger than 0 and less than 1024000 bytes"),
            (Config, "", 1, "name must be provided"),
            (Secret, "-a", 1, "invalid name, only 64"),
            (Secret, "a/b", 1, "invalid name, only 64"),
            (Secret, &long, 1, "invalid name, only 64"),
        ] {
            let said = check(kind, &spec(name, size)).err().map_or(String::new(), |e| e.message().to_owned());
            assert!(said.contains(says) && said.is_empty() == says.is_empty(), "{name} {size}: {said}");
        }
        let templated = v1::DependencySpec { templating: "jinja".into(), ..spec("a", 1) };
        assert!(check(Secret, &templated).expect_err("unknown driver").message().contains("\"jinja\""));
    }

    #[test]
    fn files_have_targets_of_their_own() {
        let file = |target: &str| v1::FileReference {
            id: "i".into(),
            name: "n".into(),
            target: target.into(),
            mode: 0o444,
            ..Default::default()
        };
        assert!(check_files(&[file("a"), file("/b/c")]).is_ok());
        for (files, says) in [
            (vec![file("a"), file("a")], "secret references 'n' and 'n' have a conflicting target: 'a'"),
            (vec![file("")], "malformed secret reference, no target provided"),
            (vec![file("../x")], "without \"..\""),
            (vec![v1::FileReference { id: String::new(), ..file("a") }], "malformed secret reference"),
            (vec![v1::FileReference { mode: 0o10000, ..file("a") }], "not a file's permissions"),
        ] {
            let said = check_files(&files).expect_err(says);
            assert!(said.message().contains(says), "{}", said.message());
        }
    }

    #[test]
    fn what_a_secret_holds_is_neither_shown_nor_printed() {
        let secret = v1::Dependency { spec: Some(spec("a", 3)), ..Default::default() };
        assert_eq!(shown(&secret).spec.and_then(|s| s.content), None);
        assert!(!format!("{secret:?}").contains("120"), "{secret:?}");
        let config = v1::Dependency { kind: DependencyKind::Config.into(), ..secret };
        assert!(shown(&config).spec.and_then(|s| s.content).is_some());
    }
}
