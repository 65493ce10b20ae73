//! `extends`: a service that begins as another one, of the same file or of another.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::load::{Error, Loader};
use super::merge;
use super::node::{Node, Problem};

/// Services that extend each other, at most.
const MOST: usize = 64;

/// A file whose services are extended.
#[derive(Clone)]
struct Source {
    root: Rc<Node>,
    file: String,
    dir: PathBuf,
}

struct Extender<'a, 'b> {
    loader: &'a mut Loader<'b>,
    sources: HashMap<String, Source>,
}

/// A document whose services extend nothing any more.
pub fn resolve(loader: &mut Loader<'_>, mut root: Node, file: &str, dir: &Path) -> Result<Node, Error> {
    let extending: Vec<String> = root
        .get("services")
        .map(Node::entries)
        .unwrap_or_default()
        .iter()
        .filter(|(_, s)| s.get("extends").is_some())
        .map(|(k, _)| k.text.clone())
        .collect();
    if extending.is_empty() {
        return Ok(root);
    }
    let source = Source { root: Rc::new(root.clone()), file: file.to_owned(), dir: dir.to_owned() };
    let mut extender = Extender { loader, sources: HashMap::new() };
    for name in extending {
        let whole = extender.whole(&source, &name, &mut Vec::new())?;
        if let Some(held) = root.get_mut("services").and_then(|s| s.get_mut(&name)) {
            *held = whole;
        }
    }
    Ok(root)
}

impl Extender<'_, '_> {
    /// A service with all it extends.
    fn whole(
        &mut self,
        source: &Source,
        name: &str,
        seen: &mut Vec<(String, String)>,
    ) -> Result<Node, Error> {
        let Some(service) = source.root.path(&["services", name]) else {
            return Ok(Node::map(&source.root.at));
        };
        let Some(extends) = service.get("extends") else { return Ok(service.clone()) };
        let here = (source.file.clone(), name.to_owned());
        if seen.contains(&here) || seen.len() == MOST {
            let round: Vec<&str> = seen.iter().map(|(_, n)| n.as_str()).chain([name]).collect();
            let what = match seen.contains(&here) {
                true => format!("services.{name}.extends: goes round in a circle: {}", round.join(" -> ")),
                false => format!("services.{name}.extends: more than {MOST} services extend each other"),
            };
            return Err(Problem::new(&extends.at, what).into());
        }
        seen.push(here);
        let Some(base_name) = extends.get("service") else {
            return Err(
                Problem::new(&extends.at, format!("services.{name}.extends: service is missing")).into()
            );
        };
        let base_source = match extends.get("file") {
            Some(file) => self.source(file, &source.dir)?,
            None => source.clone(),
        };
        let text = base_name.text().unwrap_or_default();
        if base_source.root.path(&["services", text]).is_none() {
            let what = format!("services.{name}.extends: no service {text:?} in {}", base_source.file);
            return Err(Problem::new(&base_name.at, what).into());
        }
        let mut base = self.whole(&base_source, text, seen)?;
        let mut over = service.clone();
        over.remove("extends");
        merge::service(&mut base, over);
        seen.pop();
        Ok(base)
    }

    fn source(&mut self, file: &Node, dir: &Path) -> Result<Source, Error> {
        let text = file.text().unwrap_or_default();
        let path = dir.join(text);
        let shown = path.to_string_lossy().into_owned();
        if let Some(held) = self.sources.get(&shown) {
            return Ok(held.clone());
        }
        let dir = path.parent().unwrap_or(dir).to_owned();
        let root = match self.loader.document(&shown, &dir) {
            Err(Error::Read { file: missing, source }) => {
                return Err(Problem::new(&file.at, format!("extends: open {missing}: {source}")).into());
            }
            other => Rc::new(other?),
        };
        let source = Source { root, file: shown.clone(), dir };
        self.sources.insert(shown, source.clone());
        Ok(source)
    }
}
