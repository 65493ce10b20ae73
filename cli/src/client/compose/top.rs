//! `compose top`: the processes of all containers in one table.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use super::super::api::Query;
use super::super::output::say;
use super::{Session, found};

pub async fn run(s: &Session<'_>, services: &[String]) -> Result<()> {
    let subject = s.files.find(services)?;
    let found = found::of(s.api, &subject.name, services).await?;
    let mut titles: Vec<String> = vec!["SERVICE".into(), "#".into()];
    let mut rows: Vec<BTreeMap<String, String>> = Vec::new();
    for container in found.iter().filter(|c| c.running()) {
        let answer = s.api.get(&format!("{}/top", container.path()), &Query::new()).await?;
        let words = |v: &Value| -> Vec<String> {
            v.as_array().into_iter().flatten().map(|c| c.as_str().unwrap_or_default().to_owned()).collect()
        };
        let heads = words(&answer["Titles"]);
        for title in &heads {
            if !titles.contains(title) {
                titles.push(title.clone());
            }
        }
        for process in answer["Processes"].as_array().into_iter().flatten() {
            let mut row: BTreeMap<String, String> = heads.iter().cloned().zip(words(process)).collect();
            row.insert("SERVICE".into(), container.service.clone());
            row.insert("#".into(), container.number.to_string());
            rows.push(row);
        }
    }
    let cell = |row: &BTreeMap<String, String>, title: &String| {
        row.get(title).filter(|c| !c.is_empty()).cloned().unwrap_or_else(|| "-".into())
    };
    let width = |title: &String| {
        let widest = rows.iter().map(|r| cell(r, title).chars().count()).max().unwrap_or(0);
        widest.max(title.chars().count())
    };
    if rows.is_empty() {
        return Ok(());
    }
    let widths: Vec<usize> = titles.iter().map(width).collect();
    let line = |cells: Vec<String>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(c, w)| format!("{c:w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    say!("{}", line(titles.clone()))?;
    for row in &rows {
        say!("{}", line(titles.iter().map(|t| cell(row, t)).collect()))?;
    }
    Ok(())
}
