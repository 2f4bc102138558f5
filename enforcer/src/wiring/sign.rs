//! `--sign`: the signer of the feed's certificates, beside a resolver of the cluster.

use anyhow::{Context, Result};
use nameward_daemon::StopSignals;

use super::cluster::connect;
use crate::{certificates::signer::Signer, options::Options};

/// Makes the resolver's certificates, and, unless it is to be done once only, signs until a signal says stop.
pub(super) fn sign(options: &Options) -> Result<()> {
    let namespace = options.own_namespace.as_deref().context("--own-namespace is missing")?;
    let folder = options.sign.as_deref().context("--sign is missing")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = StopSignals::listen()?;
        let client = connect(options).await?;
        let signer = Signer::open(&client, namespace).await?;
        signer.prepare_resolver(folder)?;
        if options.once {
            return Ok(());
        }
        tokio::select! {
            ended = signer.serve(client, folder) => ended,
            () = signals.arrived() => Ok(()),
        }
    })
}
