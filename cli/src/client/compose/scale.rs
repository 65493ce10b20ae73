//! `compose scale`: so many containers of a service.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use clap::Args;

use super::create::{self, Options};
use super::image::{self, Wanted};
use super::{Session, start};

/// Flags of `compose scale`.
#[derive(Args)]
pub struct ScaleFlags {
    /// Don't start linked services
    #[arg(long)]
    no_deps: bool,
    #[arg(required = true, value_name = "SERVICE=REPLICAS")]
    counts: Vec<String>,
}

pub async fn run(s: &Session<'_>, flags: &ScaleFlags) -> Result<()> {
    let mut scale = BTreeMap::new();
    for text in &flags.counts {
        let Some((name, count)) = text.split_once('=').filter(|(n, c)| !n.is_empty() && !c.is_empty()) else {
            bail!("invalid scale specifier: {text}");
        };
        let count = count
            .parse()
            .with_context(|| format!("invalid scale specifier: can't parse replica value as int: {text}"))?;
        scale.insert(name.to_owned(), count);
    }
    let names: Vec<String> = scale.keys().cloned().collect();
    let mut project = s.files.load(&names)?;
    for name in &names {
        project.service(name)?;
    }
    let services = project.selected(&names, !flags.no_deps)?;
    if flags.no_deps {
        project.only_needs(&services);
    }
    image::ensure(s, &project, &services, Wanted::default()).await?;
    let options = Options { scale, ..Options::default() };
    create::all(s, &project, &services, &names, &options).await?;
    start::all(s, &project, &services).await
}
