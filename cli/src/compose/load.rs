//! From the names of files to one project.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::canonical::{self, Context};
use super::interpolate::{self, Variables};
use super::node::{Kind, Node, Problem};
use super::{env_file, extends, merge, references, schema, shape, yaml};

/// Why a project cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("open {file}: {source}")]
    Read {
        /// The file as it was named.
        file: String,
        source: std::io::Error,
    },
    /// What is in the files is wrong.
    #[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
    /// No file was named.
    #[error("Specify a Compose file (with --compose-file)")]
    NoFile,
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Invalid(vec![problem])
    }
}

/// What to load, and with what.
pub struct Options<'a> {
    /// Paths, merged in this order; `-` is standard input.
    pub files: &'a [String],
    pub variables: Variables,
    /// Profiles whose services are wanted; `*` is all.
    pub profiles: Vec<String>,
    /// Whether variables are put in; without it they stay as they are written.
    pub interpolate: bool,
}

/// The files as one.
#[derive(Debug)]
pub struct Project {
    /// In long forms, with the order and the types of the schema.
    pub root: Node,
    /// What is not an error but should be known.
    pub warnings: Vec<String>,
}

/// Loads a project.
pub fn load(options: &Options<'_>) -> Result<Project, Error> {
    let mut loader = Loader { options, warnings: Vec::new() };
    let mut merged: Option<Node> = None;
    // As with Docker, what is relative begins where the first file lies.
    let Some(first) = options.files.first() else { return Err(Error::NoFile) };
    let dir = directory(first);
    for file in options.files {
        let document = loader.document(file, &dir)?;
        let document = extends::resolve(&mut loader, document, file, &dir)?;
        match &mut merged {
            Some(base) => merge::merge(base, document),
            None => merged = Some(document),
        }
    }
    let Some(mut root) = merged else { return Err(Error::NoFile) };
    merge::drop_reset(&mut root);
    loader.leave_out_inactive(&mut root);
    if options.interpolate {
        env_file::fold(&mut root, &options.variables)?;
    }
    references::check(&root)?;
    shape::sort(&mut root, &schema::FILE);
    loader.warnings.dedup();
    Ok(Project { root, warnings: loader.warnings })
}

/// Where the paths in a file begin.
pub fn directory(file: &str) -> PathBuf {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    match file {
        "-" => cwd,
        file => cwd.join(Path::new(file).parent().unwrap_or(Path::new(""))),
    }
}

/// Reads files, one by one.
pub struct Loader<'a> {
    options: &'a Options<'a>,
    warnings: Vec<String>,
}

impl Loader<'_> {
    /// A file by itself, checked and in long forms.
    pub fn document(&mut self, file: &str, dir: &Path) -> Result<Node, Error> {
        let text = read(file).map_err(|source| Error::Read { file: file.into(), source })?;
        let shown = if file == "-" { "<stdin>" } else { file };
        self.parsed(shown, &text, dir)
    }

    /// A text as a file.
    pub fn parsed(&mut self, file: &str, text: &str, dir: &Path) -> Result<Node, Error> {
        let mut root = yaml::parse(file, text)?;
        if !matches!(root.kind, Kind::Map(_)) {
            let what = format!("want a mapping at the top level, not {}", root.describe());
            return Err(Problem::new(&root.at, what).into());
        }
        if self.options.interpolate {
            interpolate::document(&mut root, "", &self.options.variables, &mut self.warnings)?;
        }
        let mut found = shape::Check { problems: Vec::new(), variables_stay: !self.options.interpolate };
        found.check(&mut root, &schema::FILE, "");
        if !found.problems.is_empty() {
            return Err(Error::Invalid(found.problems));
        }
        if let Some((key, _)) = root.entries().iter().find(|(k, _)| k.text == "include") {
            return Err(Problem::new(&key.at, "include is not supported yet: name the files with -c").into());
        }
        canonical::file(&mut root, &Context { dir, variables_stay: !self.options.interpolate })?;
        Ok(root)
    }

    /// Takes out the services of profiles that are not wanted.
    fn leave_out_inactive(&self, root: &mut Node) {
        let wanted = &self.options.profiles;
        let active = |service: &Node| {
            let profiles = service.get("profiles").map(Node::items).unwrap_or_default();
            let named = |p: &Node| wanted.iter().any(|w| w == "*" || p.text() == Some(w));
            profiles.is_empty() || profiles.iter().any(named)
        };
        if let Some(Node { kind: Kind::Map(services), .. }) = root.get_mut("services") {
            services.retain(|(_, service)| active(service));
        }
    }
}

fn read(file: &str) -> std::io::Result<String> {
    if file != "-" {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}
