//! How images are transferred: limits (`max-concurrent-downloads` and its like) and proxies, flags of `skep daemon` and keys
//! of its file with dockerd's names.

use std::num::NonZeroUsize;

use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use skep_registry::Proxies;

use super::file::File;

/// The flags.
#[derive(Args, Clone, Debug, Default)]
pub struct TransferArgs {
    /// Layers that are downloaded at once [default: 3]
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_downloads: Option<usize>,
    /// Layers that a push uploads at once [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub max_concurrent_uploads: Option<usize>,
    /// How often the download of a layer is tried that gets nowhere [default: 5]
    #[arg(long, value_name = "NUMBER")]
    pub max_download_attempts: Option<u32>,
    /// Proxy towards registries and other servers without TLS [default: as HTTP_PROXY says]
    #[arg(long, value_name = "URL")]
    pub http_proxy: Option<String>,
    /// Proxy towards those with TLS [default: as HTTPS_PROXY says]
    #[arg(long, value_name = "URL")]
    pub https_proxy: Option<String>,
    /// Hosts, addresses and networks that are reached without a proxy, with commas between them [default: as NO_PROXY says]
    #[arg(long, value_name = "HOSTS")]
    pub no_proxy: Option<String>,
}

/// Proxies in a file, as dockerd has them since version 24.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ProxyEntries {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

/// How many layers are transferred at once; none = as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Downloads.
    pub downloads: Option<NonZeroUsize>,
    /// Uploads of one push.
    pub uploads: Option<NonZeroUsize>,
}

/// Decides from both; flags win. As with dockerd, 0 is as by default.
pub fn decide(args: TransferArgs, file: &File) -> Result<(Limits, u32, Proxies)> {
    let limits = Limits {
        downloads: args
            .max_concurrent_downloads
            .or(file.max_concurrent_downloads)
            .and_then(NonZeroUsize::new),
        uploads: args.max_concurrent_uploads.or(file.max_concurrent_uploads).and_then(NonZeroUsize::new),
    };
    let told = |flag: Option<String>, entry: &Option<String>, key: &Option<String>| {
        flag.or(entry.clone()).or(key.clone()).unwrap_or_default()
    };
    let proxies = Proxies {
        http: told(args.http_proxy, &file.proxies.http_proxy, &file.http_proxy),
        https: told(args.https_proxy, &file.proxies.https_proxy, &file.https_proxy),
        none: told(args.no_proxy, &file.proxies.no_proxy, &file.no_proxy),
    };
    let proxies = proxies.checked().context("--http-proxy, --https-proxy")?;
    Ok((limits, args.max_download_attempts.or(file.max_download_attempts).unwrap_or(0), proxies))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read_where_any_dockerd_has_them_and_flags_win() {
        let json = r#"{ "proxies": { "https-proxy": "http://u:p@a:1", "no-proxy": "c" }, "http-proxy": "b:2",
            "max-concurrent-downloads": 1, "max-concurrent-uploads": 0, "max-download-attempts": 2 }"#;
        let file: File = serde_json::from_str(json).expect("a file");
        let (limits, attempts, proxies) = decide(TransferArgs::default(), &file).expect("valid");
        assert_eq!((limits.downloads.map(NonZeroUsize::get), limits.uploads, attempts), (Some(1), None, 2));
        let told = [&proxies.http, &proxies.https, &proxies.none].map(String::as_str);
        assert_eq!(told, ["b:2", "http://u:p@a:1", "c"]);
        let args = TransferArgs { no_proxy: Some("d".into()), ..TransferArgs::default() };
        assert_eq!(decide(args, &file).expect("valid").2.none, "d");
        let args = TransferArgs { http_proxy: Some("socks5://u:secret@a".into()), ..TransferArgs::default() };
        let error = format!("{:#}", decide(args, &file).expect_err("of another kind"));
        assert!(error.contains("--http-proxy") && !error.contains("secret"), "{error}");
    }
}
