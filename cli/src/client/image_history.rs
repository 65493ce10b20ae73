//! `history`: the steps an image was made by.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::api::{Api, Query};
use super::human;
use super::output::{Column, Listing, text};

/// Flags of `history`.
#[derive(Args)]
pub struct HistoryArgs {
    /// Format output: table, table TEMPLATE, json or a Go template
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Print sizes and dates in human readable format
    #[arg(short = 'H', long, value_name = "bool", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[arg(value_name = "IMAGE")]
    image: String,
}

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];
const TABLE: &str = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";
const TABLE_EXACT: &str = "{{.ID}}\t{{.CreatedAt}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}";

/// Shows it, newest step first.
pub async fn show(api: &Api, args: &HistoryArgs) -> Result<()> {
    let found = api.get(&format!("/images/{}/history", args.image), &Query::new()).await?;
    let mut listing = Listing::new(COLUMNS, if args.human { TABLE } else { TABLE_EXACT });
    for step in found.as_array().into_iter().flatten() {
        let created = step["Created"].as_i64().unwrap_or(0);
        let size = step["Size"].as_i64().unwrap_or(0);
        let by = text(step, "CreatedBy").replace('\t', " ");
        let since = match created {
            0 => "N/A".to_owned(),
            _ => format!("{} ago", human::duration(human::since_unix(created))),
        };
        listing.row(
            vec![
                human::short_id(&text(step, "Id"), args.no_trunc).into(),
                since.into(),
                human::rfc3339(created).into(),
                if args.no_trunc { by } else { human::ellipsis(&by, 45) }.into(),
                if args.human { human::size(size) } else { size.to_string() }.into(),
                text(step, "Comment").into(),
            ],
            &Value::Null,
        );
    }
    listing.print(args.quiet, args.format.as_deref())
}
