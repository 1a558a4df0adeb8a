//! The HTTP side: `/metrics`, `/livez`, `/readyz`, `/startupz`, `/status` (JSON) and a status page at `/`.
//!
//! Reads only; nothing can be changed from here. Knows the worker through a closure that makes the status. The probes answer from
//! the first moment on; metrics and status once the model is loaded, which tells what there is to count.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use serde_json::Value;
use tokio::net::TcpListener;

use super::health::{Health, Report};
use super::metrics::Metrics;

/// The page polls `/status` and `/readyz`; it brings its own style and script and loads nothing.
const PAGE: &str = include_str!("page.html");
/// Nothing foreign is loaded or run, and no other site may frame the page.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'";

/// Makes the status: see [`super::status::Status`].
pub type StatusProvider = Arc<dyn Fn() -> Value + Send + Sync>;

/// The server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} for metrics and health: {source}; every worker of a host needs an http.listen of its own, \
         or \"\" for none"
    )]
    Bind {
        /// As configured.
        address: SocketAddr,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The listener failed later.
    #[error("the metrics server stopped: {0}")]
    Serve(#[source] std::io::Error),
}

/// What can be shown only once the model is loaded.
pub struct Shown {
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/status`.
    pub status: StatusProvider,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct App {
    health: Arc<Health>,
    shown: Arc<OnceLock<Shown>>,
}

/// Listens on an address; port 0 takes a free one.
///
/// # Errors
/// If the address is taken or not this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|source| HttpError::Bind { address, source })
}

/// Serves until `shutdown` resolves; requests that have begun are answered. As long as `shown` is empty, metrics and status are
/// answered with 503 and what is missing.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    health: Arc<Health>,
    shown: Arc<OnceLock<Shown>>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), HttpError> {
    let server = axum::serve(listener, router(App { health, shown })).with_graceful_shutdown(shutdown);
    server.await.map_err(HttpError::Serve)
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/livez", get(|State(app): State<App>| async move { probe(&app.health.live(Instant::now())) }))
        .route("/readyz", get(|State(app): State<App>| async move { probe(&app.health.ready(Instant::now())) }))
        .route("/startupz", get(|State(app): State<App>| async move { probe(&app.health.started()) }))
        .route("/status", get(status))
        .with_state(app)
}

async fn page() -> Response {
    let policy = (HeaderName::from_static("content-security-policy"), PAGE_POLICY);
    ([policy], Html(PAGE)).into_response()
}

async fn metrics(State(app): State<App>) -> Response {
    let Some(shown) = app.shown.get() else { return not_yet(&app.health) };
    let kind = (header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    ([kind], shown.metrics.render()).into_response()
}

async fn status(State(app): State<App>) -> Response {
    app.shown.get().map_or_else(|| not_yet(&app.health), |shown| json(StatusCode::OK, &(shown.status)()))
}

fn not_yet(health: &Health) -> Response {
    json(StatusCode::SERVICE_UNAVAILABLE, &health.ready(Instant::now()))
}

fn probe(report: &Report) -> Response {
    json(if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, report)
}

fn json(status: StatusCode, body: &impl serde::Serialize) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    match serde_json::to_string(body) {
        Ok(text) => (status, headers, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
