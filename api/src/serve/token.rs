//! The token that a loopback address asks for: who can read its file may ask.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use rand::distr::{Alphanumeric, SampleString};
use subtle::ConstantTimeEq;
use thiserror::Error;

use crate::Problem;

/// Answered to everybody.
pub const OPEN: [&str; 2] = ["/healthz", "/readyz"];
/// A shorter token could be guessed.
const SHORTEST: usize = 16;
/// Letters of a token that we make: 256 bits and more.
const LENGTH: usize = 43;

/// A secret that clients must show.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a file holds no token.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It cannot be read or made.
    #[error("cannot {operation} the token file {path}")]
    Io {
        /// Verb.
        operation: &'static str,
        /// Which file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error("the token file {path} may be read or changed by others (mode {mode:o}): chmod 600 {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "the token file {path} must hold one line of {SHORTEST} letters or more; remove it to have a new one made"
    )]
    Unfit {
        /// Which file.
        path: PathBuf,
    },
}

impl Token {
    /// Reads a file; makes one with a new token where there is none.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read_or_make(path: &Path) -> Result<Self, TokenError> {
        match Self::make(path) {
            Err(TokenError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::read(path)
            }
            made => made,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Io { operation: "read", path: path.into(), source };
        let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o027 != 0 {
            return Err(TokenError::Open { path: path.into(), mode });
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        let token = text.trim();
        let fits = token.len() >= SHORTEST && token.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(token.into())) } else { Err(TokenError::Unfit { path: path.into() }) }
    }

    fn make(path: &Path) -> Result<Self, TokenError> {
        let failed = |source| TokenError::Io { operation: "make", path: path.into(), source };
        let token = Alphanumeric.sample_string(&mut rand::rng(), LENGTH);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        file.write_all(format!("{token}\n").as_bytes()).map_err(failed)?;
        Ok(Self(token.into()))
    }

    /// What a client sends.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Routes that answer only to those who show the token, but for health and readiness.
    pub fn guard(self, routes: Router) -> Router {
        routes.layer(middleware::from_fn_with_state(self, check))
    }

    fn is_shown(&self, request: &Request) -> bool {
        let shown = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
        // The scheme in any case of letters (RFC 9110 11.1).
        let shown = shown.and_then(|value| value.split_at_checked("Bearer ".len()));
        shown.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(token.ct_eq(self.0.as_bytes()))
        })
    }
}

async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    if OPEN.contains(&request.uri().path()) || token.is_shown(&request) {
        return next.run(request).await;
    }
    let detail = "send `Authorization: Bearer TOKEN` with what stands in the file of --api-token-file";
    Problem::new(StatusCode::UNAUTHORIZED, detail).into_response()
}
