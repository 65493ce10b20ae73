//! What containers of services may only have on nodes that allow it: with any of it, who may make services may be root
//! on the nodes that run them.

use std::collections::BTreeMap;

use crate::gpus::are_counted;
use crate::v1::ContainerSpec;

/// Name of Skep's own runtime.
const OWN_RUNTIME: &str = "skep";

/// Capabilities by which a container is as good as the host's root.
const DANGEROUS: [&str; 9] = [
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];

/// A thing that a node allows or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Privilege {
    /// All capabilities and devices, nothing masked.
    Privileged,
    /// Devices of the host by their paths, by rules, or by their names in CDI; not the GPUs that a task was given.
    Devices,
    /// A namespace of the host's.
    HostNamespaces,
    /// Another confinement than the default one.
    Unconfined,
    /// Capabilities that amount to the host's.
    Capabilities,
    /// Annotations for an OCI runtime other than Skep's own: some act on them as the host's root (crun runs hooks, keeps
    /// groups, unmasks paths by `run.oci.*`).
    Annotations,
}

impl Privilege {
    /// All there are.
    pub const ALL: [Self; 6] = [
        Self::Privileged,
        Self::Devices,
        Self::HostNamespaces,
        Self::Unconfined,
        Self::Capabilities,
        Self::Annotations,
    ];

    /// Its name in settings and in a node's description.
    pub fn word(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Devices => "devices",
            Self::HostNamespaces => "host-namespaces",
            Self::Unconfined => "unconfined",
            Self::Capabilities => "capabilities",
            Self::Annotations => "annotations",
        }
    }

    /// By its name.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.word() == word)
    }
}

/// What a container asks for that needs leave, each with what to call it, on a node whose containers that ask for no runtime
/// have Skep's `own` one or another.
pub fn needed(c: &ContainerSpec, own: bool) -> BTreeMap<Privilege, String> {
    let mut needed = BTreeMap::new();
    let named = |c: &&String| {
        let upper = c.to_ascii_uppercase();
        DANGEROUS.contains(&upper.strip_prefix("CAP_").unwrap_or(&upper))
    };
    let capabilities: Vec<&str> = c.cap_add.iter().filter(named).map(String::as_str).collect();
    if !capabilities.is_empty() {
        needed.insert(Privilege::Capabilities, format!("the capability {}", capabilities.join(" or ")));
    }
    let Some(run) = &c.run else { return needed };
    if run.privileged {
        needed.insert(Privilege::Privileged, "privileged containers".into());
    }
    let uncounted = run.device_requests.iter().any(|r| !are_counted(r));
    if !run.devices.is_empty() || !run.device_cgroup_rules.is_empty() || uncounted {
        needed.insert(Privilege::Devices, "devices of the host".into());
    }
    let host = [
        ("PID", &run.pid_mode),
        ("IPC", &run.ipc_mode),
        ("UTS", &run.uts_mode),
        ("cgroup", &run.cgroupns_mode),
        ("user", &run.userns_mode),
    ];
    let host: Vec<&str> =
        host.into_iter().filter(|(_, mode)| *mode == "host").map(|(name, _)| name).collect();
    if !host.is_empty() {
        needed.insert(Privilege::HostNamespaces, format!("the host's {} namespace", host.join(" or ")));
    }
    // Taking away more than the default does is always allowed.
    let stricter = |o: &&String| {
        !o.starts_with("no-new-privileges") && !matches!(o.as_str(), "seccomp=builtin" | "seccomp:builtin")
    };
    let paths = run.masked_paths.is_some() || run.readonly_paths.is_some();
    let option = run.security_opt.iter().find(stricter).map(|o| match o.split_once(['=', ':']) {
        Some((name, value)) if value.starts_with('{') => format!("{name} profiles of a service's own"),
        _ => format!("the security option {o}"),
    });
    if let Some(what) = option.or_else(|| paths.then(|| "paths of /proc and /sys unmasked".into())) {
        needed.insert(Privilege::Unconfined, what);
    }
    let own = if run.runtime.is_empty() { own } else { run.runtime == OWN_RUNTIME };
    if !own && !run.annotations.is_empty() {
        needed.insert(Privilege::Annotations, "annotations for another OCI runtime than Skep's own".into());
    }
    needed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::RunOptions;

    #[test]
    fn what_is_dangerous_needs_leave_and_the_rest_does_not() {
        let of = |c: ContainerSpec| needed(&c, true).into_iter().collect::<Vec<_>>();
        let run = |run: RunOptions| of(ContainerSpec { run: Some(run), ..Default::default() });
        let caps = |list: &[&str]| {
            of(ContainerSpec { cap_add: list.iter().map(|c| (*c).into()).collect(), ..Default::default() })
        };
        assert_eq!(caps(&["NET_ADMIN", "CAP_CHOWN"]), []);
        assert_eq!(
            caps(&["cap_sys_admin"]),
            [(Privilege::Capabilities, "the capability cap_sys_admin".into())]
        );
        assert_eq!(
            run(RunOptions { shm_size: 1 << 20, ipc_mode: "private".into(), ..Default::default() }),
            []
        );
        let options = |o: &str| run(RunOptions { security_opt: vec![o.into()], ..Default::default() });
        assert_eq!(options("no-new-privileges"), []);
        assert_eq!(
            options("seccomp=unconfined"),
            [(Privilege::Unconfined, "the security option seccomp=unconfined".into())]
        );
        assert_eq!(
            run(RunOptions { privileged: true, pid_mode: "host".into(), ..Default::default() }),
            [
                (Privilege::Privileged, "privileged containers".into()),
                (Privilege::HostNamespaces, "the host's PID namespace".into())
            ]
        );
        let noted = |runtime: &str, own: bool| {
            let annotations = [("run.oci.keep_original_groups".to_owned(), "1".to_owned())].into();
            let run = RunOptions { runtime: runtime.into(), annotations, ..Default::default() };
            needed(&ContainerSpec { run: Some(run), ..Default::default() }, own)
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!([noted("", true), noted("skep", false)], [[], []]);
        assert_eq!(
            [noted("", false), noted("crun", true)],
            [[Privilege::Annotations], [Privilege::Annotations]]
        );
        for p in Privilege::ALL {
            assert_eq!(Privilege::of(p.word()), Some(p));
        }
    }
}
