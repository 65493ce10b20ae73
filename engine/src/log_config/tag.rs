//! The `tag` option: a template over the container, of which what tags are made of is known.

use super::LogSubject;

/// What a template asks for.
enum Part<'a> {
    Text(&'a str),
    Field(&'a str),
    Label(&'a str),
}

/// Refuses by name what no tag can be made from.
pub(super) fn check(template: &str) -> Result<(), String> {
    for part in parts(template)? {
        if let Part::Field(name) = part {
            field(name, &LogSubject::default())?;
        }
    }
    Ok(())
}

/// The tag.
pub(super) fn expand(template: &str, of: &LogSubject) -> Result<String, String> {
    let mut out = String::new();
    for part in parts(template)? {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Field(name) => out.push_str(&field(name, of)?),
            Part::Label(key) => out.push_str(of.labels.get(key).map(String::as_str).unwrap_or_default()),
        }
    }
    Ok(out)
}

fn parts(template: &str) -> Result<Vec<Part<'_>>, String> {
    let mut out = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push(Part::Text(before));
        let (inside, after) =
            after.split_once("}}").ok_or_else(|| format!("tag {template:?}: \"{{{{\" without \"}}}}\""))?;
        let inside = inside.trim_matches('-').trim();
        let label =
            inside.strip_prefix("index").map(str::trim).and_then(|i| i.strip_prefix(".ContainerLabels"));
        out.push(match (inside.strip_prefix('.'), label) {
            (Some(name), _) if name.chars().all(char::is_alphanumeric) => Part::Field(name),
            (_, Some(key)) if key.trim().len() > 2 => Part::Label(key.trim().trim_matches(['"', '`'])),
            _ => {
                return Err(format!(
                    "tag {template:?}: {{{{{inside}}}}} is not known: use a field such as {{{{.Name}}}}"
                ));
            }
        });
        rest = after;
    }
    out.push(Part::Text(rest));
    Ok(out)
}

fn field(name: &str, of: &LogSubject) -> Result<String, String> {
    let short = |id: &str| id.chars().take(12).collect::<String>();
    Ok(match name {
        "ID" => short(&of.id),
        "FullID" | "ContainerID" => of.id.clone(),
        "Name" => of.name.trim_start_matches('/').to_owned(),
        "ContainerName" => format!("/{}", of.name.trim_start_matches('/')),
        // The digest's algorithm counts among the twelve, as in Docker.
        "ImageID" => short(&of.image_id),
        "ImageFullID" | "ContainerImageID" => of.image_id.clone(),
        "ImageName" | "ContainerImageName" => of.image_name.clone(),
        "Command" => of.argv.join(" "),
        // What tags written for Docker say.
        "DaemonName" => "docker".into(),
        other => {
            return Err(format!(
                "tag: {{{{.{other}}}}} is not known: use ID, FullID, Name, ImageID, ImageFullID, ImageName, Command or DaemonName"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_made_of_fields() {
        let of = LogSubject {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            image_id: "sha256:fedcba9876543210".into(),
            image_name: "nginx:1".into(),
            labels: [("a.b".to_owned(), "c".to_owned())].into(),
            ..LogSubject::default()
        };
        for (template, wanted) in [
            ("{{.DaemonName}}/{{ .Name }}/{{.ID}}", "docker/web/0123456789ab"),
            ("{{.ImageName}} {{.ImageFullID}} {{.ImageID}}", "nginx:1 sha256:fedcba9876543210 sha256:fedcb"),
            ("{{index .ContainerLabels \"a.b\"}}-{{.FullID}}", "c-0123456789abcdef"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand(template, &of).as_deref(), Ok(wanted));
        }
        for bad in ["{{.ID", "{{.What}}", "{{range .X}}", "{{}}"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
