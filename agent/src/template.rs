//! Placeholders in a service's host name, environment, mounts, and in its secrets and configs that are templates,
//! filled in for each task: `{{.Service.Name}}`, `{{.Task.Slot}}`, `{{.Node.Hostname}}` and the like.

use std::sync::Arc;

use skep_proto::v1;

const KNOWN: &str = ".Service.ID, .Service.Name, index .Service.Labels \"NAME\", .Task.ID, .Task.Name, .Task.Slot, .Node.ID, \
    .Node.Hostname, .Node.Platform.OS or .Node.Platform.Architecture";

/// What placeholders stand for.
pub(crate) struct Values<'a> {
    /// The task and its service.
    pub(crate) assignment: &'a v1::TaskAssignment,
    /// The task's name.
    pub(crate) task_name: &'a str,
    /// This host's name.
    pub(crate) hostname: &'a str,
    /// This host's architecture, as Docker names it.
    pub(crate) arch: &'a str,
}

impl Values<'_> {
    /// The text with its placeholders filled in. One that is not known is refused by name.
    pub(crate) fn expand(&self, text: &str) -> Result<String, String> {
        fill(text, |name| self.value(name).ok_or_else(|| format!("{name:?} is not known: use {KNOWN}")))
    }

    fn value(&self, name: &str) -> Option<String> {
        let task = self.assignment.task.as_ref()?;
        Some(match name {
            ".Service.ID" => task.service_id.clone(),
            ".Service.Name" => self.assignment.service_name.clone(),
            ".Task.ID" => task.id.clone(),
            ".Task.Name" => self.task_name.to_owned(),
            // A task of a replicated job has its slot, also 0. One that is bound to its node has that in its place.
            ".Task.Slot" if task.slot == 0 => task.node_id.clone(),
            ".Task.Slot" => task.shown_slot().to_string(),
            ".Node.ID" => task.node_id.clone(),
            ".Node.Hostname" => self.hostname.to_owned(),
            ".Node.Platform.OS" => "linux".to_owned(),
            ".Node.Platform.Architecture" => self.arch.to_owned(),
            _ => {
                // As in Go, a label that is not there is empty.
                let label = argument("index .Service.Labels", name)?;
                self.assignment.service_labels.get(label).cloned().unwrap_or_default()
            }
        })
    }
}

/// What placeholders in secrets and configs stand for: the same, and what the container has besides.
pub(crate) struct Payload<'a> {
    /// The task and its node.
    pub(crate) values: &'a Values<'a>,
    /// What the files of the task hold, in their order.
    pub(crate) held: &'a [Arc<v1::Dependency>],
}

impl Payload<'_> {
    /// What a secret or config is to hold in this container. Errors do not quote it.
    pub(crate) fn content(&self, dependency: &v1::Dependency) -> Result<Vec<u8>, String> {
        let templated = dependency.spec.as_ref().is_some_and(|s| !s.templating.is_empty());
        if !templated {
            return Ok(raw(dependency).to_vec());
        }
        fill(text(dependency)?, |name| self.value(name)).map(String::into_bytes)
    }

    fn value(&self, name: &str) -> Result<String, String> {
        if let Some(known) = self.values.value(name) {
            return Ok(known);
        }
        let container = self.values.assignment.spec.as_ref().and_then(|s| s.container.as_ref());
        if let Some(variable) = argument("env", name) {
            let mut env = container.into_iter().flat_map(|c| &c.env).rev().filter_map(|e| e.split_once('='));
            return env
                .find(|(n, _)| *n == variable)
                .map_or(Ok(String::new()), |(_, v)| self.values.expand(v));
        }
        for (function, kind) in
            [("secret", v1::DependencyKind::Secret), ("config", v1::DependencyKind::Config)]
        {
            let Some(target) = argument(function, name) else { continue };
            let files = container.into_iter().flat_map(|c| &c.files).zip(self.held);
            let mut found = files.filter(|(f, _)| f.kind() == kind && f.target == target);
            let (_, dependency) =
                found.next().ok_or_else(|| format!("{function} target {target} not found"))?;
            return text(dependency).map(str::to_owned);
        }
        Err(format!(
            "the placeholder {name:?} is not known: use {KNOWN}, env \"NAME\", secret \"TARGET\" or config \"TARGET\""
        ))
    }
}

fn raw(dependency: &v1::Dependency) -> &[u8] {
    dependency.spec.as_ref().and_then(|s| s.content.as_ref()).map_or(&[], |c| &c.data)
}

fn text(dependency: &v1::Dependency) -> Result<&str, String> {
    std::str::from_utf8(raw(dependency)).map_err(|_| "a template must be text in UTF-8".to_owned())
}

/// `X` of `FUNCTION "X"`.
fn argument<'a>(function: &str, call: &'a str) -> Option<&'a str> {
    let quoted = call.strip_prefix(function)?;
    quoted.trim_start().strip_prefix('"')?.strip_suffix('"').filter(|x| !x.contains('"'))
}

/// The text with what stands between braces replaced.
fn fill(text: &str, value: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or("template: \"{{\" without its \"}}\"")?;
        out.push_str(before);
        out.push_str(&value(name.trim()).map_err(|e| format!("template: {e}"))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in_and_unknown_ones_named() {
        let task = v1::Task { id: "t1".into(), slot: 3, node_id: "n1".into(), ..Default::default() };
        let assignment =
            v1::TaskAssignment { task: Some(task), service_name: "web".into(), ..Default::default() };
        let values =
            Values { assignment: &assignment, task_name: "web.3.t1", hostname: "host", arch: "x86_64" };
        for (text, wanted) in [
            ("plain", "plain"),
            ("{{.Service.Name}}-{{ .Task.Slot }}", "web-3"),
            ("/srv/{{.Node.Hostname}}/{{.Task.Name}}", "/srv/host/web.3.t1"),
        ] {
            assert_eq!(values.expand(text).as_deref(), Ok(wanted));
        }
        assert!(values.expand("{{.Nope}}").expect_err("unknown").contains(".Nope"));
        assert!(values.expand("{{.Task.ID").is_err());
    }

    #[test]
    fn secrets_and_configs_know_their_container() {
        let file = |kind: v1::DependencyKind, target: &str| v1::FileReference {
            kind: kind.into(),
            target: target.into(),
            ..Default::default()
        };
        let held = |data: &str, templating: &str| {
            Arc::new(v1::Dependency {
                spec: Some(v1::DependencySpec {
                    content: Some(v1::Content { data: data.into() }),
                    templating: templating.into(),
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        let container = v1::ContainerSpec {
            env: vec!["A=1".into(), "A={{.Task.Slot}}".into()],
            files: vec![
                file(v1::DependencyKind::Secret, "password"),
                file(v1::DependencyKind::Config, "/etc/app"),
            ],
            ..Default::default()
        };
        let assignment = v1::TaskAssignment {
            task: Some(v1::Task { slot: 3, ..Default::default() }),
            spec: Some(v1::TaskSpec { container: Some(container), ..Default::default() }),
            service_name: "web".into(),
            service_labels: [("tier".to_owned(), "front".to_owned())].into(),
            ..Default::default()
        };
        let values = Values { assignment: &assignment, task_name: "t", hostname: "host", arch: "x86_64" };
        let text = r#"{{.Service.Name}} {{env "A"}} {{index .Service.Labels "tier"}} {{secret "password"}}"#;
        let held = [held("s3cret {{", ""), held(text, "golang")];
        let payload = Payload { values: &values, held: &held };
        assert_eq!(payload.content(&held[0]).as_deref(), Ok("s3cret {{".as_bytes()));
        assert_eq!(payload.content(&held[1]).as_deref(), Ok("web 3 front s3cret {{".as_bytes()));
        assert!(payload.value("secret \"nope\"").expect_err("no such file").contains("nope"));
        assert!(payload.value("uuid").is_err());
    }
}
