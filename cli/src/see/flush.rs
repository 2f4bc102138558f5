//! `nameward flush`: takes back what names gave.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::Result;
use nameward_api::{
    table,
    types::{BindingStatus, Flushed, FlushedBinding},
};

use super::{NO, args::Flush, asking, output};

/// `nameward flush`.
pub(crate) fn flush(arguments: &Flush) -> Result<ExitCode> {
    let (client, query) = (arguments.reach.client()?, arguments.query());
    if arguments.dry_run {
        let live = [query, vec![("live", "true".into())]].concat();
        let items: Vec<BindingStatus> =
            asking(async { Ok(client.list("/v1/bindings", &live, usize::MAX).await?) })?;
        return output::list(&items, arguments.output);
    }
    let (items, warnings) = asking(async {
        let (mut items, mut warnings): (Vec<FlushedBinding>, Vec<String>) = (Vec::new(), Vec::new());
        let mut cursor = None;
        loop {
            let mut query = query.clone();
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let flushed: Flushed = client.delete("/v1/bindings", &query).await?;
            items.extend(flushed.items);
            warnings.extend(flushed.warnings);
            cursor = flushed.next;
            if cursor.is_none() {
                return Ok((items, warnings));
            }
        }
    })?;
    let shown = output::list(&items, arguments.output)?;
    for warning in warnings.iter().collect::<BTreeSet<_>>() {
        eprintln!("nameward: {}", table::printable(warning));
    }
    Ok(if warnings.is_empty() { shown } else { ExitCode::from(NO) })
}
