//! Placeholders in a service's host name, environment and mounts, filled in for each task:
//! `{{.Service.Name}}`, `{{.Task.Slot}}`, `{{.Node.Hostname}}` and the like.

use skep_proto::v1;

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
        let (mut out, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (name, after) = after
                .split_once("}}")
                .ok_or_else(|| format!("template {text:?}: \"{{{{\" without its \"}}}}\""))?;
            out.push_str(before);
            out.push_str(&self.value(name.trim()).ok_or_else(|| {
                format!(
                    "template {text:?}: {name:?} is not known: use .Service.ID, .Service.Name, .Task.ID, .Task.Name, .Task.Slot, .Node.ID, .Node.Hostname, .Node.Platform.OS or .Node.Platform.Architecture"
                )
            })?);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn value(&self, name: &str) -> Option<String> {
        let task = self.assignment.task.as_ref()?;
        Some(match name {
            ".Service.ID" => task.service_id.clone(),
            ".Service.Name" => self.assignment.service_name.clone(),
            ".Task.ID" => task.id.clone(),
            ".Task.Name" => self.task_name.to_owned(),
            // A task of a global service has its node in place of a slot.
            ".Task.Slot" if task.slot == 0 => task.node_id.clone(),
            ".Task.Slot" => task.slot.to_string(),
            ".Node.ID" => task.node_id.clone(),
            ".Node.Hostname" => self.hostname.to_owned(),
            ".Node.Platform.OS" => "linux".to_owned(),
            ".Node.Platform.Architecture" => self.arch.to_owned(),
            _ => return None,
        })
    }
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
}
