//! From the names of files to one project.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::canonical::{self, Context};
use super::interpolate::{self, Variables};
use super::node::{Kind, Node, Problem};
use super::{env_file, extends, include, merge, references, schema, shape, yaml};

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

/// Whose rules hold where those of stacks and of projects differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `docker stack`: no `.env`, env files as they stand, `build` means nothing.
    Stack,
    /// `docker compose`.
    Project,
}

/// What to load, and with what.
pub struct Options<'a> {
    /// Paths, merged in this order; `-` is standard input.
    pub files: &'a [String],
    pub variables: Variables,
    /// Profiles whose services are wanted; `*` is all.
    pub profiles: Vec<String>,
    /// Services that are wanted whatever their profiles.
    pub services: Vec<String>,
    /// Whether variables are put in; without it they stay as they are written.
    pub interpolate: bool,
    /// Whether env files are read; without it they stay named.
    pub env_files: bool,
    /// Whether paths are made whole.
    pub whole_paths: bool,
    /// Whether what names something else is checked.
    pub consistent: bool,
    pub dialect: Dialect,
    /// Where relative paths begin; none: where the first file lies.
    pub directory: Option<PathBuf>,
}

/// The files as one.
#[derive(Debug)]
pub struct Project {
    /// In long forms, with the order and the types of the schema.
    pub root: Node,
    /// Services that are left out, as no profile of theirs is wanted.
    pub inactive: Vec<String>,
    /// What is not an error but should be known.
    pub warnings: Vec<String>,
}

/// Loads a project.
pub fn load(options: &Options<'_>) -> Result<Project, Error> {
    let mut loader = Loader::new(options);
    // As with Docker, what is relative begins where the first file lies.
    let Some(first) = options.files.first() else { return Err(Error::NoFile) };
    let dir = options.directory.clone().unwrap_or_else(|| directory(first));
    let mut root = loader.merged(options.files, &dir, &mut Vec::new())?;
    merge::drop_reset(&mut root);
    if options.dialect == Dialect::Project {
        merge::unite(&mut root);
    }
    let inactive = loader.leave_out_inactive(&mut root);
    if options.interpolate && options.env_files {
        env_file::fold(&mut root, &options.variables, options.dialect)?;
    }
    if options.consistent {
        references::check(&root, options.dialect, &inactive)?;
    }
    shape::sort(&mut root, &schema::FILE);
    loader.warnings.dedup();
    Ok(Project { root, inactive, warnings: loader.warnings })
}

/// Where the paths in a file begin.
pub fn directory(file: &str) -> PathBuf {
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    match file {
        "-" => cwd,
        file => cwd.join(Path::new(file).parent().unwrap_or(Path::new(""))),
    }
}

/// Files that one project is made of, at most: those that include each other grow fast.
const MOST_FILES: usize = 256;

/// Reads files, one by one.
pub struct Loader<'a> {
    options: &'a Options<'a>,
    /// Of the file that is being read: an included one may have others.
    pub(super) variables: Variables,
    warnings: Vec<String>,
    files: usize,
    /// Bytes that variables may still become.
    room: usize,
}

impl<'a> Loader<'a> {
    fn new(options: &'a Options<'a>) -> Self {
        let (variables, room) = (options.variables.clone(), interpolate::MOST_TEXT);
        Self { options, variables, warnings: Vec::new(), files: 0, room }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.options.dialect
    }

    /// Files as one, each with what it includes and extends; `within` are the files that include these.
    pub fn merged(&mut self, files: &[String], dir: &Path, within: &mut Vec<String>) -> Result<Node, Error> {
        let mut merged: Option<Node> = None;
        for file in files {
            let mut document = self.document(file, dir)?;
            let included = include::take(self, &mut document, file, dir, within)?;
            let mut document = extends::resolve(self, document, file, dir)?;
            for other in included {
                include::import(&mut document, other)?;
            }
            match &mut merged {
                Some(base) => merge::merge(base, document),
                None => merged = Some(document),
            }
        }
        merged.ok_or(Error::NoFile)
    }

    /// A file by itself, checked and in long forms.
    pub fn document(&mut self, file: &str, dir: &Path) -> Result<Node, Error> {
        let text = read(file).map_err(|source| Error::Read { file: file.into(), source })?;
        let shown = if file == "-" { "<stdin>" } else { file };
        if self.options.dialect != Dialect::Project {
            return self.checked(yaml::parse(shown, &text)?, dir);
        }
        // Several in one file are merged as several files are.
        let mut merged: Option<Node> = None;
        for (_, document) in yaml::documents(shown, &text)? {
            let document = self.checked(document, dir)?;
            match &mut merged {
                Some(base) => merge::merge(base, document),
                None => merged = Some(document),
            }
        }
        merged.ok_or(Error::NoFile)
    }

    /// One document, checked and in long forms.
    fn checked(&mut self, mut root: Node, dir: &Path) -> Result<Node, Error> {
        self.files += 1;
        if self.files > MOST_FILES {
            return Err(
                Problem::new(&root.at, format!("more than {MOST_FILES} files make one project")).into()
            );
        }
        if !matches!(root.kind, Kind::Map(_)) {
            let what = format!("want a mapping at the top level, not {}", root.describe());
            return Err(Problem::new(&root.at, what).into());
        }
        if self.options.interpolate {
            let mut put = interpolate::Interpolation {
                vars: &self.variables,
                warnings: &mut self.warnings,
                room: &mut self.room,
            };
            put.document(&mut root, "")?;
        }
        let mut found = shape::Check { problems: Vec::new(), variables_stay: !self.options.interpolate };
        found.check(&mut root, &schema::FILE, "");
        if !found.problems.is_empty() {
            return Err(Error::Invalid(found.problems));
        }
        let context = Context {
            dir,
            variables_stay: !self.options.interpolate,
            whole_paths: self.options.whole_paths,
            builds: self.options.dialect == Dialect::Project,
        };
        canonical::file(&mut root, &context)?;
        Ok(root)
    }

    /// Takes out the services of profiles that are not wanted; their names.
    fn leave_out_inactive(&self, root: &mut Node) -> Vec<String> {
        let (wanted, named) = (&self.options.profiles, &self.options.services);
        let active = |name: &str, service: &Node| {
            let profiles = service.get("profiles").map(Node::items).unwrap_or_default();
            let asked = |p: &Node| wanted.iter().any(|w| w == "*" || p.text() == Some(w));
            profiles.is_empty() || named.iter().any(|n| n == name) || profiles.iter().any(asked)
        };
        let mut inactive = Vec::new();
        if let Some(Node { kind: Kind::Map(services), .. }) = root.get_mut("services") {
            services.retain(|(key, service)| {
                let stays = active(&key.text, service);
                if !stays {
                    inactive.push(key.text.clone());
                }
                stays
            });
        }
        inactive
    }
}

/// The name that files give their project; the last of them counts. Files that cannot be read name none.
pub fn declared_name(files: &[String], variables: &Variables) -> Result<Option<String>, Problem> {
    let mut found = None;
    for file in files {
        let Ok(text) = read(file) else { continue };
        for (_, root) in yaml::documents(if file == "-" { "<stdin>" } else { file }, &text)? {
            let Some(name) = root.get("name") else { continue };
            let expanded =
                interpolate::expand(name.text().unwrap_or_default(), variables, 0, &mut Vec::new());
            found = expanded.ok().filter(|n| !n.is_empty()).or(found);
        }
    }
    Ok(found)
}

fn read(file: &str) -> std::io::Result<String> {
    static TYPED: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    if file != "-" {
        return std::fs::read_to_string(file);
    }
    if let Some(text) = TYPED.get() {
        return Ok(text.clone());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(TYPED.get_or_init(|| text).clone())
}
