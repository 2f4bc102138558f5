//! The API's description, OpenAPI 3.1, from the handlers and types themselves. `api/openapi.json` is this, committed.

use std::sync::LazyLock;

use axum::{http::header::CONTENT_TYPE, response::IntoResponse};
use utoipa::{
    Modify, OpenApi,
    openapi::{
        Response,
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};

use crate::routes::{bindings, decisions, endpoints, explain, flush, health, policies, subjects, traffic};
use crate::serve::OPEN;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nameward",
        description = "What an enforcer knows: which name gave which address to whom, until when, which rule allowed it, and why something was denied. Reading only, but for what is said to be for root. On a unix socket the right to open it is the right to read; over TCP a bearer token is asked for, but for /healthz and /readyz.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT"),
    ),
    servers((url = "http://localhost", description = "The unix socket, or a loopback address with a token")),
    paths(
        endpoints::list, endpoints::one, bindings::list, flush::flush, decisions::list, explain::explain, policies::list,
        policies::suggestions, subjects::list, traffic::list, health::alive, health::ready, health::metrics,
    ),
    tags(
        (name = "state", description = "Endpoints, names and addresses, explanations"),
        (name = "decisions", description = "What became of packets"),
        (name = "policies", description = "What is in force, and what would have to be"),
        (name = "health", description = "For supervisors and Prometheus"),
    ),
    security(("token" = [])),
    modifiers(&Token),
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        description.components.get_or_insert_default().add_security_scheme("token", scheme);
        let open = |path: &str| OPEN.contains(&path);
        for (_, item) in description.paths.paths.iter_mut().filter(|(path, _)| !open(path)) {
            for operation in [&mut item.get, &mut item.delete].into_iter().flatten() {
                let refused = Response::new("Over TCP: no token, or another");
                operation.responses.responses.insert("401".into(), refused.into());
            }
        }
    }
}

/// The description as JSON.
pub fn json() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        // A value of strings, numbers and maps: this cannot fail.
        Description::openapi().to_pretty_json().unwrap_or_default() + "\n"
    });
    &TEXT
}

/// The description as an answer.
pub fn answer() -> axum::response::Response {
    ([(CONTENT_TYPE, "application/json")], json()).into_response()
}
