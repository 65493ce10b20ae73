//! `RUN --mount=type=...,...`. <https://docs.docker.com/reference/dockerfile/#run---mount>

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that is kept for the next build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret's file.
    Secret,
    /// An agent's socket.
    Ssh,
}

/// One mount. What is empty was not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its kind.
    pub kind: MountKind,
    /// Where it is in the container.
    pub target: String,
    /// Path in what it is from.
    pub source: String,
    /// Stage or image.
    pub from: String,
    /// Name of the cache, secret or agent.
    pub id: String,
    /// Variable that a secret is put into.
    pub env: String,
    /// Nothing may be written; none = as the kind has it.
    pub read_only: Option<bool>,
    /// It has to be there.
    pub required: bool,
    /// `shared`, `private` or `locked`.
    pub sharing: String,
    /// Bytes of memory.
    pub size: Option<u64>,
    /// Mode of a secret, a socket or a new cache.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

impl Mount {
    /// Reads the value of `--mount`, a line of comma-separated values.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut m = Self {
            kind: MountKind::Bind,
            target: String::new(),
            source: String::new(),
            from: String::new(),
            id: String::new(),
            env: String::new(),
            read_only: None,
            required: false,
            sharing: String::new(),
            size: None,
            mode: None,
            uid: None,
            gid: None,
        };
        for field in fields(text) {
            let (key, value) = match field.split_once('=') {
                Some((k, v)) => (k.to_ascii_lowercase(), Some(v)),
                None => (field.to_ascii_lowercase(), None),
            };
            m.field(&key, value)?;
        }
        m.check()?;
        Ok(m)
    }

    fn field(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let switch = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(v) => Err(format!("invalid value for {key}: {v:?}")),
        };
        match key {
            "readonly" | "ro" => {
                self.read_only = Some(switch()?);
                return Ok(());
            }
            "readwrite" | "rw" => {
                self.read_only = Some(!switch()?);
                return Ok(());
            }
            "required" => {
                self.required = switch()?;
                return Ok(());
            }
            _ => {}
        }
        let value = value.ok_or_else(|| format!("invalid field {key:?} must be a key=value pair"))?;
        let number = |radix| {
            u32::from_str_radix(value, radix).map_err(|_| format!("invalid value {value:?} for {key}"))
        };
        match key {
            "type" => {
                self.kind = match value.to_ascii_lowercase().as_str() {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    "ssh" => MountKind::Ssh,
                    _ => return Err(format!("unsupported mount type {value:?}")),
                }
            }
            "target" | "dst" | "destination" => self.target = value.to_owned(),
            "source" | "src" => self.source = value.to_owned(),
            "from" => self.from = value.to_owned(),
            "id" => self.id = value.to_owned(),
            "env" => self.env = value.to_owned(),
            "sharing" => match value {
                "shared" | "private" | "locked" => self.sharing = value.to_owned(),
                _ => return Err(format!("unsupported sharing value {value:?}")),
            },
            "size" => {
                let size = crate::config::parse_size(value);
                self.size = Some(size.ok_or_else(|| format!("invalid value {value:?} for size"))?);
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            _ => return Err(format!("unexpected key {key:?} in {key}={value}")),
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        let secret = matches!(self.kind, MountKind::Secret | MountKind::Ssh);
        if !secret && self.target.is_empty() {
            return Err("invalid mount target \"\": a mount wants target=PATH".into());
        }
        if !self.env.is_empty() && self.kind != MountKind::Secret {
            return Err("env is for secrets only".into());
        }
        if self.kind == MountKind::Secret {
            if self.id.is_empty() {
                let from = if self.source.is_empty() { &self.target } else { &self.source };
                self.id = from.rsplit('/').next().unwrap_or_default().to_owned();
            }
            if self.id.is_empty() {
                return Err("a secret wants id=NAME".into());
            }
            if self.target.is_empty() && self.env.is_empty() {
                self.target = format!("/run/secrets/{}", self.id);
            }
        }
        if self.size.is_some() && self.kind != MountKind::Tmpfs {
            return Err("size is for tmpfs only".into());
        }
        Ok(())
    }
}

/// Fields divided by commas; a field in double quotes may have commas in it.
fn fields(text: &str) -> Vec<String> {
    let (mut out, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in text.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    out.push(field);
    out.retain(|f| !f.is_empty());
    out
}
