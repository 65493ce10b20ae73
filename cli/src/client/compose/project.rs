//! Finding and loading a project: its files, its variables, its name.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use super::supported;
use crate::compose::{self, At, Dialect, Kind, Node, Variables, dotenv};

/// Names looked for where no file is given, in this order.
const NAMES: &[&str] = &["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
const OVERRIDES: &[&str] = &[
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// Flags that say which project is meant.
#[derive(Args, Clone)]
pub struct FileFlags {
    /// Include all resources, even those not used by services
    #[arg(long)]
    pub all_resources: bool,
    /// Run compose in backward compatibility mode: containers and images have the names that `docker-compose` gave them,
    /// with `_` in them
    #[arg(long)]
    compatibility: bool,
    /// Specify an alternate environment file
    #[arg(long, value_name = "stringArray")]
    env_file: Vec<String>,
    /// Compose configuration files
    #[arg(short, long, value_name = "stringArray")]
    file: Vec<String>,
    /// Specify a profile to enable
    #[arg(long, value_name = "stringArray")]
    profile: Vec<String>,
    /// Specify an alternate working directory (default: the path of the, first specified, Compose file)
    #[arg(long, value_name = "string")]
    project_directory: Option<PathBuf>,
    /// Project name
    #[arg(short, long, value_name = "string")]
    project_name: Option<String>,
}

/// How far files are read; all the way by default.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Variables have their values.
    pub interpolate: bool,
    /// Env files are read.
    pub env_files: bool,
    /// Paths are whole.
    pub whole_paths: bool,
    /// What names something else is checked.
    pub consistent: bool,
    /// What is left unsaid is said.
    pub complete: bool,
    /// All that the files say stays, whether it is used, or could be made, or not: services of all profiles, too.
    pub everything: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            interpolate: true,
            env_files: true,
            whole_paths: true,
            consistent: true,
            complete: true,
            everything: false,
        }
    }
}

/// A loaded project.
pub struct Project {
    pub name: String,
    /// Where its relative paths begin.
    pub dir: PathBuf,
    /// Its files, whole.
    pub files: Vec<String>,
    /// `services`, `networks` and so on: only what is used, each with its name on the host.
    pub root: Node,
    /// Services that are left out by their profiles.
    pub inactive: Vec<String>,
    pub variables: Variables,
    /// What stands between the words of names of containers and images.
    pub separator: char,
}

/// A project of which perhaps only the name is known.
pub struct Subject {
    pub name: String,
    pub project: Option<Project>,
}

/// No file was given and none found.
#[derive(Debug, thiserror::Error)]
#[error("no configuration file provided: not found")]
struct NoFile;

/// Where a project is.
struct Located {
    /// Where we are.
    cwd: PathBuf,
    /// Where its relative paths begin.
    dir: PathBuf,
    files: Vec<String>,
    /// Those of the environment, and beneath them those of the env files.
    variables: Variables,
}

/// The variables of the environment. One that is not text cannot stand in a file either.
fn environment() -> Variables {
    let text = |(k, v): (OsString, OsString)| Some((k.into_string().ok()?, v.into_string().ok()?));
    std::env::vars_os().filter_map(text).collect()
}

impl FileFlags {
    /// Loads the project. `services` are wanted whatever their profiles.
    pub fn load(&self, services: &[String]) -> Result<Project> {
        self.load_as(services, Reading::default())
    }

    /// Variables that are known before a project is: where one has no files, or wrong ones, those of the environment. Whoever
    /// loads it says what is wrong. An env file that can be read once only (a pipe) is left to the loading.
    pub fn known(&self) -> Variables {
        let outer = environment();
        match self.env_files(&outer).iter().all(|file| file.is_file()) {
            true => self.locate(&outer).map_or(outer, |found| found.variables),
            false => outer,
        }
    }

    fn locate(&self, outer: &Variables) -> Result<Located> {
        let cwd = std::env::current_dir().context("find the current directory")?;
        let given = self.project_directory.as_ref().map(|d| cwd.join(d));
        let beside = |file: &String| compose::directory(file);
        let first = given.clone().or(self.file.first().map(beside)).unwrap_or_else(|| cwd.clone());
        let mut variables = self.variables(&first, outer)?;
        let files = self.files(given.as_deref().unwrap_or(&cwd), &variables)?;
        let dir = given.unwrap_or_else(|| beside(&files[0]));
        let dir = PathBuf::from(super::super::copy::clean(&dir.to_string_lossy()));
        if dir != first && self.env_file.is_empty() {
            variables = self.variables(&dir, outer)?;
        }
        Ok(Located { cwd, dir, files, variables })
    }

    /// The same, not read to the end.
    pub fn load_as(&self, services: &[String], reading: Reading) -> Result<Project> {
        let Located { cwd, dir, files, mut variables } = self.locate(&environment())?;
        let name = self.name(&dir, &files, &variables)?;
        variables.insert("COMPOSE_PROJECT_NAME".into(), name.clone());
        let mut profiles = match reading.everything {
            true => vec!["*".to_owned()],
            false => self.profile.clone(),
        };
        if let Some(named) = variables.get("COMPOSE_PROFILES").filter(|_| profiles.is_empty()) {
            profiles.extend(named.split(',').map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned));
        }
        let options = compose::Options {
            files: &files,
            variables: variables.clone(),
            profiles,
            services: services.to_vec(),
            interpolate: reading.interpolate,
            env_files: reading.env_files,
            whole_paths: reading.whole_paths,
            consistent: reading.consistent,
            dialect: Dialect::Project,
            directory: Some(dir.clone()),
        };
        let loaded = compose::load(&options)?;
        loaded.warnings.iter().for_each(|w| eprintln!("{w}"));
        let mut root = loaded.root;
        if !reading.everything {
            supported::check(&root)?;
        }
        let all = self.all_resources || reading.everything;
        match reading.complete {
            true => super::service::complete(&mut root, &name, all),
            false => super::service::complete_sparsely(&mut root, &name, all),
        }
        let compatible =
            self.compatibility || variables.get("COMPOSE_COMPATIBILITY").is_some_and(|v| is_yes(v));
        let separator = if compatible { '_' } else { '-' };
        let whole = |file: &String| match file.as_str() {
            "-" => "-".to_owned(),
            file => super::super::copy::clean(&cwd.join(file).to_string_lossy()),
        };
        let files = files.iter().map(whole).collect();
        Ok(Project { name, dir, files, root, inactive: loaded.inactive, variables, separator })
    }

    /// The project with the services of all profiles.
    pub fn load_all(&self) -> Result<Project> {
        Self { profile: vec!["*".to_owned()], ..self.clone() }.load(&[])
    }

    /// The project, of which the name alone is enough.
    pub fn find(&self, services: &[String]) -> Result<Subject> {
        match self.load(services) {
            Ok(project) => Ok(Subject { name: project.name.clone(), project: Some(project) }),
            Err(e) if e.is::<NoFile>() => {
                let named = self.project_name.clone().or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok());
                match named.filter(|n| !n.is_empty()) {
                    Some(name) => Ok(Subject { name: checked(&name)?, project: None }),
                    None => Err(e),
                }
            }
            Err(e) => Err(e),
        }
    }

    /// The env files that are named.
    fn env_files(&self, outer: &Variables) -> Vec<PathBuf> {
        let named = outer.get("COMPOSE_ENV_FILES").filter(|_| self.env_file.is_empty());
        let named = named.into_iter().flat_map(|list| list.split(',')).filter(|f| !f.is_empty());
        self.env_file.iter().map(String::as_str).chain(named).map(PathBuf::from).collect()
    }

    /// Those of the environment, and beneath them those of the env files.
    fn variables(&self, dir: &Path, outer: &Variables) -> Result<Variables> {
        let mut files = self.env_files(outer);
        let default = dir.join(".env");
        if files.is_empty() && default.is_file() {
            files.push(default);
        }
        let mut found = Variables::new();
        for file in files {
            if !file.exists() {
                bail!("couldn't find env file: {}", file.display());
            }
            let at = At { file: "--env-file".into(), line: 1, column: 1 };
            let known = found.clone().into_iter().chain(outer.clone()).collect();
            found.extend(dotenv::file(&file, &at, &known)?);
        }
        found.extend(outer.clone());
        Ok(found)
    }

    fn files(&self, dir: &Path, variables: &Variables) -> Result<Vec<String>> {
        if !self.file.is_empty() {
            return Ok(self.file.clone());
        }
        if let Some(named) = variables.get("COMPOSE_FILE").filter(|f| !f.is_empty()) {
            let separator = variables.get("COMPOSE_PATH_SEPARATOR").map_or(":", String::as_str);
            let whole = |f: &str| dir.join(f).to_string_lossy().into_owned();
            return Ok(named.split(separator).filter(|f| !f.is_empty()).map(whole).collect());
        }
        for at in dir.ancestors() {
            let present = |names: &[&str]| names.iter().map(|n| at.join(n)).find(|p| p.is_file());
            let Some(file) = present(NAMES) else { continue };
            let found = [Some(file), present(OVERRIDES)];
            return Ok(found.into_iter().flatten().map(|p| p.to_string_lossy().into_owned()).collect());
        }
        Err(NoFile.into())
    }

    fn name(&self, dir: &Path, files: &[String], variables: &Variables) -> Result<String> {
        let given = self.project_name.as_ref().or_else(|| variables.get("COMPOSE_PROJECT_NAME"));
        if let Some(name) = given.filter(|n| !n.is_empty()) {
            return checked(name);
        }
        if let Some(name) = compose::declared_name(files, variables)? {
            return checked(&name);
        }
        let base = dir.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let kept: String = base
            .chars()
            .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(*c))
            .collect();
        let name = kept.trim_start_matches(['-', '_']);
        if name.is_empty() {
            bail!("project name must not be empty: name it with -p, or with name in the file");
        }
        Ok(name.to_owned())
    }
}

/// What Docker's takes for yes in a variable.
pub fn is_yes(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "t" | "true" | "y" | "yes")
}

/// A name that was chosen has to be right.
fn checked(name: &str) -> Result<String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
    if !name.chars().all(good) || name.starts_with(['-', '_']) {
        bail!(
            "invalid project name {name:?}: must consist only of lowercase alphanumeric characters, hyphens, and underscores as well as start with a letter or number"
        );
    }
    Ok(name.to_owned())
}

impl Project {
    /// Its active services by name, sorted.
    pub fn services(&self) -> impl Iterator<Item = (&str, &Node)> {
        let entries = self.root.get("services").map(Node::entries).unwrap_or_default();
        entries.iter().map(|(k, s)| (k.text.as_str(), s))
    }

    /// An active service.
    pub fn service(&self, name: &str) -> Result<&Node> {
        self.root.path(&["services", name]).with_context(|| format!("no such service: {name}"))
    }

    /// Forgets what services wait for beside these, as `--no-deps` has it.
    pub fn only_needs(&mut self, kept: &[String]) {
        for (_, service) in self.root.get_mut("services").map(Node::entries_mut).unwrap_or_default() {
            if let Some(Node { kind: Kind::Map(needs), .. }) = service.get_mut("depends_on") {
                needs.retain(|(needed, _)| kept.contains(&needed.text));
            }
        }
    }

    /// The named services, or all if none is; with `needed`, also those that they depend on.
    pub fn selected(&self, names: &[String], needed: bool) -> Result<Vec<String>> {
        let mut out: Vec<String> = Vec::new();
        let mut todo: Vec<String> = match names {
            [] => self.services().map(|(n, _)| n.to_owned()).collect(),
            names => names.to_vec(),
        };
        while let Some(name) = todo.pop() {
            if out.contains(&name) {
                continue;
            }
            let service = self.service(&name)?;
            if needed {
                let needs = compose::depends::of(service).into_iter().map(|n| n.service);
                todo.extend(needs.filter(|n| self.service(n).is_ok()));
            }
            out.push(name);
        }
        out.sort();
        Ok(out)
    }
}
