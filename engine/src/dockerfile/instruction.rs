//! Instructions as they were written, taken apart. Variables in them are not replaced yet: that takes a stage.

use super::heredoc::Heredoc;
use super::mount::Mount;

/// A whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// Its instructions, in order.
    pub instructions: Vec<Instruction>,
    /// The character that takes away a special meaning.
    pub escape: char,
    /// What was taken with a remark.
    pub notes: Vec<String>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// Its text on one line, without here-documents.
    pub text: String,
    /// The line it begins on, from 1.
    pub line: usize,
    /// The line it ends on.
    pub last_line: usize,
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `FROM`.
    From(FromImage),
    /// `RUN`.
    Run(Run),
    /// `CMD`.
    Cmd(Command),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `LABEL`: names and values.
    Label(Vec<(String, String)>),
    /// `MAINTAINER`.
    Maintainer(String),
    /// `EXPOSE`.
    Expose(Vec<String>),
    /// `ENV`: names and values.
    Env(Vec<(String, String)>),
    /// `ARG`: names and defaults.
    Arg(Vec<(String, Option<String>)>),
    /// `ADD`.
    Add(Copy),
    /// `COPY`.
    Copy(Copy),
    /// `VOLUME`.
    Volume(Vec<String>),
    /// `USER`.
    User(String),
    /// `WORKDIR`.
    Workdir(String),
    /// `ONBUILD`: the instruction, as text.
    Onbuild(String),
    /// `STOPSIGNAL`.
    StopSignal(String),
    /// `HEALTHCHECK`: as image configurations have it (durations in nanoseconds).
    Healthcheck(serde_json::Value),
    /// `SHELL`.
    Shell(Vec<String>),
}

/// `FROM [--platform=P] IMAGE [AS NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromImage {
    /// Image, stage or `scratch`.
    pub image: String,
    /// Line and column where that is written.
    pub at: (usize, usize),
    /// Name of the stage, in lower case.
    pub name: Option<String>,
    /// Platform.
    pub platform: Option<String>,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Arguments as they stand.
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// What a `RUN` may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// What containers may do.
    #[default]
    Sandbox,
    /// Everything (`--security=insecure`).
    Insecure,
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub command: Command,
    /// Its here-documents.
    pub heredocs: Vec<Heredoc>,
    /// What is mounted meanwhile.
    pub mounts: Vec<Mount>,
    /// `default`, `none` or `host`.
    pub network: Option<String>,
    /// What it may do.
    pub security: Security,
}

/// `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What is copied, without here-documents.
    pub sources: Vec<String>,
    /// Files written here.
    pub heredocs: Vec<Heredoc>,
    /// Where to.
    pub destination: String,
    /// Stage or image that it comes from.
    pub from: Option<String>,
    /// Owner.
    pub chown: Option<String>,
    /// Mode.
    pub chmod: Option<String>,
    /// The layer must not depend on what is below it.
    pub link: bool,
    /// Keep the directories above sources.
    pub parents: bool,
    /// What is left out.
    pub exclude: Vec<String>,
    /// Digest of what an URL gives.
    pub checksum: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Unpack archives or not, whatever they are.
    pub unpack: Option<bool>,
}
