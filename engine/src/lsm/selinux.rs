//! SELinux: the label of a container's processes, and that of its files (selinux(8), and the policy's
//! `contexts/lxc_contexts`, where distributions say what containers are).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Categories that a label's level may name; a container has two of its own.
const CATEGORIES: u32 = 1024;
const ATTRIBUTE: &std::ffi::CStr = c"security.selinux";

/// Parts of a label that were asked for (`label=type:T` and so on).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Asked {
    /// No label at all.
    pub disable: bool,
    /// User.
    pub user: Option<String>,
    /// Role.
    pub role: Option<String>,
    /// Type of processes.
    pub kind: Option<String>,
    /// Level, of processes and files.
    pub level: Option<String>,
    /// Type of files.
    pub file_kind: Option<String>,
}

impl Asked {
    /// Whether some label is asked for, which a host without SELinux has not. That there be none is true there.
    pub fn names_one(&self) -> bool {
        !self.disable && *self != Self::default()
    }

    /// Takes one `label=` option. False when there is none such.
    pub fn take(&mut self, option: &str) -> bool {
        if option == "disable" {
            self.disable = true;
            return true;
        }
        let Some((key, value)) = option.split_once(':') else { return false };
        let place = match key {
            "user" => &mut self.user,
            "role" => &mut self.role,
            "type" => &mut self.kind,
            "level" => &mut self.level,
            "filetype" => &mut self.file_kind,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }
}

/// A label: user, role, type and, where the policy has levels, a level (which has colons itself).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

impl Label {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        Some(Self { user: parts.next()?, role: parts.next()?, kind: parts.next()?, level: parts.next() })
    }

    fn text(&self) -> String {
        let Self { user, role, kind, level } = self;
        let level = level.as_ref().map_or_else(String::new, |l| format!(":{l}"));
        format!("{user}:{role}:{kind}{level}")
    }
}

/// Whether the kernel enforces a policy of SELinux, or could.
pub fn is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// The labels of a new container's processes and files. Both are empty where SELinux is not, where the policy knows no
/// containers, and for containers that are to have none.
pub fn labels(asked: &Asked, privileged: bool, id: &str) -> (String, String) {
    if !is_enabled() || asked.disable {
        return Default::default();
    }
    let contexts = super::read("/etc/selinux/config")
        .and_then(|text| policy(&text))
        .and_then(|name| super::read(format!("/etc/selinux/{name}/contexts/lxc_contexts")));
    let Some((process, file)) = contexts.as_deref().and_then(defaults) else { return Default::default() };
    // A privileged one has the type of its name, and is not kept apart from others.
    combine(process, file, asked, privileged, id)
}

/// The name of the policy in `/etc/selinux/config`.
fn policy(config: &str) -> Option<String> {
    let name = config.lines().find_map(|l| l.trim().strip_prefix("SELINUXTYPE="))?.trim();
    (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
}

/// `process` and `file` of `lxc_contexts`.
fn defaults(contexts: &str) -> Option<(Label, Label)> {
    let value = |key: &str| {
        let mut lines = contexts.lines().filter_map(|l| l.split_once('='));
        let (_, value) = lines.find(|(k, _)| k.trim() == key)?;
        Label::parse(value.trim().trim_matches('"'))
    };
    Some((value("process")?, value("file")?))
}

fn combine(
    mut process: Label,
    mut file: Label,
    asked: &Asked,
    privileged: bool,
    id: &str,
) -> (String, String) {
    if privileged && *asked == Asked::default() {
        return (String::new(), file.text());
    }
    let set = |place: &mut String, value: &Option<String>| {
        if let Some(value) = value {
            place.clone_from(value);
        }
    };
    set(&mut process.user, &asked.user);
    set(&mut process.role, &asked.role);
    set(&mut process.kind, &asked.kind);
    set(&mut file.kind, &asked.file_kind);
    if process.level.is_some() {
        let level = asked.level.clone().unwrap_or_else(|| own_level(id));
        process.level = Some(level.clone());
        file.level = Some(level);
    }
    (process.text(), file.text())
}

/// Two categories that come of the container's ID: the same ones at each start, since its files keep theirs.
fn own_level(id: &str) -> String {
    let number = u32::from_str_radix(id.get(..8).unwrap_or_default(), 16).unwrap_or(0);
    // All pairs, counted: the smaller one first.
    let pairs = CATEGORIES * (CATEGORIES - 1) / 2;
    let (mut rest, mut first) = (number % pairs, 0);
    while rest >= CATEGORIES - 1 - first {
        rest -= CATEGORIES - 1 - first;
        first += 1;
    }
    format!("s0:c{first},c{}", first + 1 + rest)
}

/// Gives everything below `path` a label (`:z`, `:Z`); links are not followed. `shared` = every container may use it.
pub fn relabel(path: &Path, mount_label: &str, shared: bool) -> Result<(), Error> {
    let Some(mut label) = Label::parse(mount_label) else { return Ok(()) };
    // As Docker has it: whose label the host itself depends on.
    let forbidden =
        ["/", "/usr", "/etc", "/tmp", "/home", "/run", "/var", "/root", "/dev", "/proc", "/sys", "/boot"];
    if forbidden.iter().any(|f| Path::new(f) == path) {
        return Err(Error::Invalid(format!("SELinux relabeling of {} is not allowed", path.display())));
    }
    if shared {
        label.level = label.level.map(|_| "s0".into());
    }
    let text = CString::new(label.text()).map_err(|_| Error::Invalid(format!("label {mount_label:?}")))?;
    below(path, &text).map_err(Error::io("relabel", path))
}

/// Deepest directory that is relabeled; nobody has one as deep, and each level is an open descriptor.
const DEEPEST: usize = 512;

/// By descriptors all the way: what a container puts in the place of a directory meanwhile leads nowhere else.
fn below(path: &Path, label: &CStr) -> io::Result<()> {
    let beheld = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let top = open(path, beheld, Mode::empty())?;
    let mut open_dirs: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
    open_dirs.extend(relabel_one(top, label)?);
    while let Some((dir, names)) = open_dirs.last_mut() {
        let Some(name) = names.pop() else {
            open_dirs.pop();
            continue;
        };
        let found = match openat(&*dir, name.as_c_str(), beheld, Mode::empty()) {
            Err(Errno::ENOENT) => continue,
            found => found?,
        };
        let inner = match relabel_one(found, label) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            inner => inner?,
        };
        if inner.is_some() && open_dirs.len() == DEEPEST {
            return Err(io::Error::other(format!("its directories are more than {DEEPEST} deep")));
        }
        open_dirs.extend(inner);
    }
    Ok(())
}

/// Gives one thing the label; a directory is given back opened, with the names in it.
fn relabel_one(thing: OwnedFd, label: &CStr) -> io::Result<Option<(OwnedFd, Vec<CString>)>> {
    // The kernel sets no attribute of a descriptor that was opened for its place only; it does by this name.
    let name = CString::new(format!("/proc/self/fd/{}", thing.as_raw_fd()))?;
    let value = label.to_bytes_with_nul();
    // SAFETY: valid C strings, and a buffer with its length.
    let set =
        unsafe { libc::setxattr(name.as_ptr(), ATTRIBUTE.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match io::Error::last_os_error() {
        _ if set == 0 => {}
        // A file system that has no labels of files (nfs) has one for all.
        e if e.raw_os_error() == Some(libc::ENOTSUP) => return Ok(None),
        e => return Err(e),
    }
    if nix::sys::stat::fstat(&thing)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Ok(None);
    }
    let read = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = Dir::openat(&thing, ".", read, Mode::empty())?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(Some((thing, names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "process = \"system_u:system_r:container_t:s0\"\n\
        content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
        file = \"system_u:object_r:container_file_t:s0\"\n";

    fn asked(options: &[&str]) -> Asked {
        let mut asked = Asked::default();
        assert!(options.iter().all(|o| asked.take(o)));
        asked
    }

    #[test]
    fn options_change_parts_of_the_default_labels() {
        let (process, file) = defaults(CONTEXTS).expect("both are there");
        let with = |options: &[&str], privileged| {
            combine(process.clone(), file.clone(), &asked(options), privileged, "00000001ffff")
        };
        let own = ("system_u:system_r:container_t:s0:c0,c2", "system_u:object_r:container_file_t:s0:c0,c2");
        assert_eq!(with(&[], false), (own.0.into(), own.1.into()));
        let given = ["user:u", "role:r", "type:t", "filetype:f", "level:s0:c1,c3"];
        assert_eq!(with(&given, false), ("u:r:t:s0:c1,c3".into(), "system_u:object_r:f:s0:c1,c3".into()));
        assert_eq!(with(&["type:spc_t"], true).0, "system_u:system_r:spc_t:s0:c0,c2");
        assert_eq!(with(&[], true), (String::new(), "system_u:object_r:container_file_t:s0".into()));
        assert!(!Asked::default().take("colour:red") && !Asked::default().take("nothing"));
        assert_eq!(policy("# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n").as_deref(), Some("targeted"));
        assert_eq!(policy("SELINUXTYPE=../x"), None);
    }

    #[test]
    fn each_container_has_two_categories_of_its_own() {
        let all: std::collections::BTreeSet<String> = (0..CATEGORIES * (CATEGORIES - 1) / 2)
            .step_by(997)
            .map(|n| own_level(&format!("{n:08x}")))
            .collect();
        assert_eq!(all.len(), 523_776_usize.div_ceil(997));
        assert_eq!(own_level("ffffffff00"), own_level("ffffffff"));
        assert_eq!(own_level("").split(',').count(), 2);
        assert_eq!(own_level(&format!("{:08x}", 523_775)), "s0:c1022,c1023");
    }

    #[test]
    fn all_below_a_directory_is_labeled_and_nothing_that_links_lead_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        for name in ["given/a/b", "outside/in"] {
            std::fs::create_dir_all(at(name)).expect("directories");
        }
        std::fs::write(at("given/a/b/file"), "x").expect("a file");
        std::os::unix::fs::symlink(at("outside"), at("given/link")).expect("a link");
        let label = "system_u:object_r:container_file_t:s0:c1,c2";
        relabel(&at("given"), label, true).expect("without SELinux it is an attribute as any other");
        let of = |name: &str| {
            let path = CString::new(at(name).as_os_str().as_encoded_bytes()).expect("a path");
            let mut value = [0u8; 128];
            // SAFETY: valid C strings, and a buffer with its length.
            let n = unsafe {
                libc::lgetxattr(path.as_ptr(), ATTRIBUTE.as_ptr(), value.as_mut_ptr().cast(), value.len())
            };
            usize::try_from(n).ok().map(|n| String::from_utf8_lossy(&value[..n]).into_owned())
        };
        for name in ["given", "given/a", "given/a/b", "given/a/b/file", "given/link"] {
            assert_eq!(of(name).as_deref(), Some("system_u:object_r:container_file_t:s0\0"), "{name}");
        }
        assert_eq!((of("outside"), of("outside/in")), (None, None));
        let deep = "d/".repeat(DEEPEST + 2);
        std::fs::create_dir_all(at("deep").join(deep)).expect("a deep one");
        let refused = relabel(&at("deep"), label, false).expect_err("too deep").to_string();
        assert!(refused.contains("deep"), "{refused}");
    }
}
