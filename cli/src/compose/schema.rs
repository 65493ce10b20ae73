//! The Compose Specification as tables, in the order Docker prints them.

use super::shape::Fields;
use super::shape::Shape::{self, *};

const STRINGS: Shape = List(&Str);
const WORDS: Shape = List(&Word);
const STRING_OR_STRINGS: Shape = Or(&[Str, STRINGS]);
/// `[A=1, B]` or `{A: 1, B: }`.
const PAIRS: Shape = Or(&[WORDS, Map(&Value)]);
const OPTIONS: Shape = Map(&Word);
/// `true`, or the older `{name: NAME}`.
const EXTERNAL: Shape = Or(&[Bool, Object(&[("name", Str)])]);

/// A file.
pub const FILE: Shape = Object(&[
    ("version", Word),
    ("name", Str),
    ("include", List(&INCLUDE)),
    ("services", Map(&SERVICE)),
    ("networks", Map(&NETWORK)),
    ("volumes", Map(&VOLUME)),
    ("secrets", Map(&SECRET)),
    ("configs", Map(&CONFIG)),
    ("models", Any),
]);

const INCLUDE: Shape = Or(&[
    Str,
    Object(&[("path", STRING_OR_STRINGS), ("project_directory", Str), ("env_file", STRING_OR_STRINGS)]),
]);

const REFERENCES: Shape = List(&Or(&[
    Str,
    Object(&[("source", Str), ("target", Str), ("uid", Word), ("gid", Word), ("mode", Int)]),
]));

const UPDATE: Shape = Object(&[
    ("parallelism", Int),
    ("delay", Duration),
    ("failure_action", OneOf(&["pause", "continue", "rollback"])),
    ("monitor", Duration),
    ("max_failure_ratio", Number),
    ("order", OneOf(&["start-first", "stop-first"])),
]);

const GENERIC: Shape = List(&Object(&[("discrete_resource_spec", Object(&[("kind", Str), ("value", Int)]))]));

const DEVICE_REQUESTS: Shape = List(&Object(&[
    ("driver", Str),
    ("count", Word),
    ("device_ids", STRINGS),
    ("capabilities", STRINGS),
    ("options", PAIRS),
]));

const DEPLOY: Shape = Object(&[
    ("mode", OneOf(&["replicated", "global", "replicated-job", "global-job"])),
    ("replicas", Int),
    ("labels", PAIRS),
    ("update_config", UPDATE),
    ("rollback_config", UPDATE),
    (
        "resources",
        Object(&[
            ("limits", Object(&[("cpus", Word), ("memory", Size), ("pids", Int)])),
            (
                "reservations",
                Object(&[
                    ("cpus", Word),
                    ("memory", Size),
                    ("generic_resources", GENERIC),
                    ("devices", DEVICE_REQUESTS),
                ]),
            ),
        ]),
    ),
    (
        "restart_policy",
        Object(&[
            ("condition", OneOf(&["none", "on-failure", "any"])),
            ("delay", Duration),
            ("max_attempts", Int),
            ("window", Duration),
        ]),
    ),
    (
        "placement",
        Object(&[
            ("constraints", STRINGS),
            ("preferences", List(&Object(&[("spread", Str)]))),
            ("max_replicas_per_node", Int),
        ]),
    ),
    ("endpoint_mode", OneOf(&["vip", "dnsrr"])),
]);

const HEALTHCHECK: Shape = Object(&[
    ("test", STRING_OR_STRINGS),
    ("timeout", Duration),
    ("interval", Duration),
    ("retries", Int),
    ("start_period", Duration),
    ("start_interval", Duration),
    ("disable", Bool),
]);

const PORT: Shape = Object(&[
    ("name", Str),
    ("mode", OneOf(&["ingress", "host"])),
    ("host_ip", Str),
    ("target", Int),
    ("published", Word),
    ("protocol", OneOf(&["tcp", "udp", "sctp"])),
    ("app_protocol", Str),
]);

const MOUNT: Shape = Object(&[
    ("type", OneOf(&["volume", "bind", "tmpfs", "npipe", "cluster", "image"])),
    ("source", Str),
    ("target", Str),
    ("read_only", Bool),
    ("consistency", Str),
    (
        "bind",
        Object(&[
            ("propagation", OneOf(&["rprivate", "private", "rshared", "shared", "rslave", "slave"])),
            ("create_host_path", Bool),
            ("recursive", Str),
            ("selinux", Str),
        ]),
    ),
    ("volume", Object(&[("nocopy", Bool), ("subpath", Str), ("labels", PAIRS)])),
    ("tmpfs", Object(&[("size", Size), ("mode", Int)])),
    ("cluster", Any),
    ("image", Object(&[("subpath", Str)])),
]);

const SERVICE_NETWORK: Shape = Object(&[
    ("aliases", STRINGS),
    ("ipv4_address", Str),
    ("ipv6_address", Str),
    ("link_local_ips", STRINGS),
    ("mac_address", Str),
    ("interface_name", Str),
    ("priority", Number),
    ("gw_priority", Int),
    ("driver_opts", OPTIONS),
]);

const BUILD: Shape = Or(&[
    Str,
    Object(&[
        ("context", Str),
        ("dockerfile", Str),
        ("dockerfile_inline", Str),
        ("args", PAIRS),
        ("labels", PAIRS),
        ("cache_from", STRINGS),
        ("cache_to", STRINGS),
        ("network", Str),
        ("target", Str),
        ("additional_contexts", PAIRS),
        ("entitlements", STRINGS),
        ("extra_hosts", PAIRS),
        ("isolation", Str),
        ("no_cache", Bool),
        ("platforms", STRINGS),
        ("privileged", Bool),
        ("provenance", Value),
        ("pull", Bool),
        ("sbom", Value),
        ("secrets", REFERENCES),
        ("shm_size", Size),
        ("ssh", PAIRS),
        ("tags", STRINGS),
        ("ulimits", ULIMITS),
    ]),
]);

const RATES: Shape = List(&Object(&[("path", Str), ("rate", Word)]));

const BLKIO: Shape = Object(&[
    ("weight", Int),
    ("weight_device", List(&Object(&[("path", Str), ("weight", Int)]))),
    ("device_read_bps", RATES),
    ("device_read_iops", RATES),
    ("device_write_bps", RATES),
    ("device_write_iops", RATES),
]);

const DEVELOP: Shape = Object(&[(
    "watch",
    List(&Object(&[
        ("path", Str),
        ("action", OneOf(&["sync", "rebuild", "restart", "sync+restart", "sync+exec"])),
        ("target", Str),
        ("ignore", STRING_OR_STRINGS),
        ("include", STRING_OR_STRINGS),
        ("initial_sync", Bool),
        ("exec", HOOK),
    ])),
)]);

const HOOK: Shape = Object(&[
    ("command", STRING_OR_STRINGS),
    ("user", Str),
    ("privileged", Bool),
    ("working_dir", Str),
    ("environment", PAIRS),
]);
const HOOKS: Shape = List(&HOOK);

const ULIMITS: Shape = Map(&Or(&[Int, Object(&[("soft", Int), ("hard", Int)])]));

const SERVICE_FIELDS: Fields = &[
    ("profiles", STRINGS),
    ("annotations", PAIRS),
    ("attach", Bool),
    ("blkio_config", BLKIO),
    ("build", BUILD),
    ("cap_add", STRINGS),
    ("cap_drop", STRINGS),
    ("cgroup", Str),
    ("cgroup_parent", Str),
    ("cgroupns_mode", Str),
    ("command", STRING_OR_STRINGS),
    ("configs", REFERENCES),
    ("container_name", Str),
    ("cpu_count", Word),
    ("cpu_percent", Word),
    ("cpu_period", Word),
    ("cpu_quota", Word),
    ("cpu_rt_period", Word),
    ("cpu_rt_runtime", Word),
    ("cpu_shares", Word),
    ("cpus", Word),
    ("cpuset", Str),
    ("credential_spec", Object(&[("config", Str), ("file", Str), ("registry", Str)])),
    (
        "depends_on",
        Or(&[
            STRINGS,
            Map(&Object(&[
                (
                    "condition",
                    OneOf(&["service_started", "service_healthy", "service_completed_successfully"]),
                ),
                ("restart", Bool),
                ("required", Bool),
            ])),
        ]),
    ),
    ("deploy", DEPLOY),
    ("develop", DEVELOP),
    ("device_cgroup_rules", STRINGS),
    ("devices", List(&Or(&[Str, Object(&[("source", Str), ("target", Str), ("permissions", Str)])]))),
    ("dns", STRING_OR_STRINGS),
    ("dns_opt", STRING_OR_STRINGS),
    ("dns_search", STRING_OR_STRINGS),
    ("domainname", Str),
    ("entrypoint", STRING_OR_STRINGS),
    ("environment", PAIRS),
    (
        "env_file",
        Or(&[
            Str,
            List(&Or(&[Str, Object(&[("path", Str), ("required", Bool), ("format", OneOf(&["raw"]))])])),
        ]),
    ),
    ("expose", WORDS),
    ("extends", Or(&[Str, Object(&[("service", Str), ("file", Str)])])),
    ("external_links", STRINGS),
    ("extra_hosts", PAIRS),
    ("gpus", Or(&[Str, DEVICE_REQUESTS])),
    ("group_add", WORDS),
    ("hostname", Str),
    ("healthcheck", HEALTHCHECK),
    ("image", Str),
    ("init", Bool),
    ("ipc", Str),
    ("isolation", Str),
    ("label_file", STRING_OR_STRINGS),
    ("labels", PAIRS),
    ("links", STRINGS),
    ("logging", Object(&[("driver", Str), ("options", Map(&Value))])),
    ("mac_address", Str),
    ("mem_limit", Word),
    ("mem_reservation", Word),
    ("mem_swappiness", Word),
    ("memswap_limit", Word),
    ("models", Any),
    ("network_mode", Str),
    ("networks", Or(&[STRINGS, Map(&SERVICE_NETWORK)])),
    ("oom_kill_disable", Bool),
    ("oom_score_adj", Int),
    ("pid", Str),
    ("pids_limit", Int),
    ("platform", Str),
    ("ports", List(&Or(&[Word, PORT]))),
    ("post_start", HOOKS),
    ("pre_stop", HOOKS),
    ("privileged", Bool),
    ("provider", Any),
    ("pull_policy", Str),
    ("read_only", Bool),
    ("restart", Str),
    ("runtime", Str),
    ("scale", Int),
    ("secrets", REFERENCES),
    ("security_opt", STRINGS),
    ("shm_size", Word),
    ("stdin_open", Bool),
    ("stop_grace_period", Duration),
    ("stop_signal", Word),
    ("storage_opt", OPTIONS),
    ("sysctls", PAIRS),
    ("tmpfs", STRING_OR_STRINGS),
    ("tty", Bool),
    ("ulimits", ULIMITS),
    ("use_api_socket", Bool),
    ("user", Word),
    ("userns_mode", Str),
    ("uts", Str),
    ("volumes", List(&Or(&[Str, MOUNT]))),
    ("volumes_from", STRINGS),
    ("working_dir", Str),
];
/// A service.
pub const SERVICE: Shape = Object(SERVICE_FIELDS);

const NETWORK: Shape = Object(&[
    ("name", Str),
    ("driver", Str),
    ("driver_opts", OPTIONS),
    (
        "ipam",
        Object(&[
            ("driver", Str),
            (
                "config",
                List(&Object(&[
                    ("subnet", Str),
                    ("ip_range", Str),
                    ("gateway", Str),
                    ("aux_addresses", OPTIONS),
                ])),
            ),
            ("options", OPTIONS),
        ]),
    ),
    ("external", EXTERNAL),
    ("internal", Bool),
    ("attachable", Bool),
    ("enable_ipv4", Bool),
    ("enable_ipv6", Bool),
    ("labels", PAIRS),
]);

const VOLUME: Shape = Object(&[
    ("name", Str),
    ("driver", Str),
    ("driver_opts", OPTIONS),
    ("external", EXTERNAL),
    ("labels", PAIRS),
    ("spec", Any),
]);

const SECRET: Shape = Object(&[
    ("name", Str),
    ("file", Str),
    ("environment", Str),
    ("external", EXTERNAL),
    ("labels", PAIRS),
    ("driver", Str),
    ("driver_opts", OPTIONS),
    ("template_driver", Str),
]);

const CONFIG: Shape = Object(&[
    ("name", Str),
    ("file", Str),
    ("content", Str),
    ("environment", Str),
    ("external", EXTERNAL),
    ("labels", PAIRS),
    ("template_driver", Str),
]);
