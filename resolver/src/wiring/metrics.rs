//! What the resolver counts, for Prometheus.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse, routing::get};
use nameward_api::serve::{ApiListener, serve_routes};
use nameward_daemon::{
    Tasks,
    metrics::{FORMAT, Family, page},
};

use crate::{Server, counters, endpoints::Endpoints, options::Options};

static ENDPOINTS: Family =
    Family::gauge("nameward_resolver_endpoints", &[], "Endpoints whose questions are answered");
static BUILD: Family = Family::gauge("nameward_resolver_build_info", &["version"], "Always 1");

/// All metrics of a resolver, in the order of the page.
pub fn families() -> &'static [&'static Family] {
    static ALL: std::sync::LazyLock<Vec<&'static Family>> =
        std::sync::LazyLock::new(|| [&[&ENDPOINTS, &BUILD], counters::FAMILIES].concat());
    &ALL
}

/// Opens the place, where one is named. May need root's rights.
pub(super) fn open(options: &Options) -> Result<Option<ApiListener>> {
    let open = |place: &nameward_api::serve::ApiPlace| {
        let listener = place.listen(options.metrics_token_file.as_deref());
        listener.with_context(|| format!("cannot serve --metrics {place}"))
    };
    options.metrics.as_ref().map(open).transpose()
}

/// Serves until the process ends.
pub(super) fn serve(listener: ApiListener, server: &Server, endpoints: &Arc<Endpoints>, tasks: &mut Tasks) {
    let (server, endpoints) = (server.clone(), Arc::clone(endpoints));
    let metrics = get(async move || ([(CONTENT_TYPE, FORMAT)], text(&server, &endpoints)).into_response());
    let routes = Router::new().route("/metrics", metrics).route("/healthz", get(async || "ok\n"));
    tasks.spawn("metrics", async { Ok(serve_routes(routes, listener).await?) });
}

fn text(server: &Server, endpoints: &Endpoints) -> String {
    page(families(), |scrape| {
        scrape.add(&ENDPOINTS, &[], endpoints.all().len());
        scrape.add(&BUILD, &[env!("CARGO_PKG_VERSION")], 1_u64);
        server.counters().scrape(scrape);
    })
}
