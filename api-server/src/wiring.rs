//! The process `nameward-api`, from top to bottom: options, certificates, nodes, who may ask, the end.

use std::{net::TcpListener, process::ExitCode};

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use kube::Client;
use nameward_api::serve::{API, ApiListener, TlsListener, Token, serve_routes};
use nameward_daemon::{StopSignals, Tasks, log, supervisor};
use nameward_tls::Credentials;

use crate::{Access, Cluster, Nodes, Options, connect::connect, nodes::Proof, router};

/// Reads the command line and answers until a signal says stop.
pub fn main() -> ExitCode {
    let options = Options::parse();
    log::start(options.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.context("cannot start threads").and_then(|runtime| runtime.block_on(answer(&options)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nameward-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn answer(options: &Options) -> Result<()> {
    let mut signals = StopSignals::listen()?;
    let mut tasks = Tasks::new();
    let served = Credentials::serving(options.certificate.clone(), options.key.clone(), API)?;
    let token = options.api_token_file.as_deref().map(Token::read_or_make).transpose()?;
    let credentials = Credentials::read(options.node_files(), API)?;
    let proof = Proof { credentials, name: options.node_name.clone() };
    let (nodes, client) = nodes(options, proof, &mut tasks).await?;
    let cannot =
        || format!("cannot serve at --listen {}; choose an address and a port that are free", options.listen);
    let listener = TcpListener::bind(options.listen).with_context(cannot)?;
    let address = listener.local_addr()?;
    let routes = match (token, client) {
        (Some(token), _) => token.guard(router(Cluster::new(nodes, None))),
        (None, Some(client)) => router(Cluster::new(nodes, Some(Access::new(client)))),
        (None, None) => bail!("nobody could be told from anybody: name a file with --api-token-file"),
    };
    let serving = serve_routes(routes, ApiListener::Tls(TlsListener::for_all(listener, served)));
    tasks.spawn("API", async { Ok(serving.await?) });
    supervisor::ready();
    tracing::info!(%address, "answering for the cluster");
    tokio::select! {
        fault = tasks.fault() => return Err(fault),
        () = signals.arrived() => {}
    }
    supervisor::stopping();
    tasks.shut_down().await;
    Ok(())
}

/// The nodes, and the client of the API server where there is one.
async fn nodes(options: &Options, proof: Proof, tasks: &mut Tasks) -> Result<(Nodes, Option<Client>)> {
    if !options.kubernetes {
        let named = options.node.iter().map(|node| (node.name.clone(), node.address));
        return Ok((Nodes::fixed(named, &proof), None));
    }
    let client = connect(options.kubeconfig.as_deref()).await?;
    let (nodes, keeping) = Nodes::of_cluster(client.clone(), proof);
    tasks.spawn("nodes", async {
        keeping.await;
        Err(anyhow!("the list of nodes is not kept up to date any more"))
    });
    Ok((nodes, Some(client)))
}
