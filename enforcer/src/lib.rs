//! Endpoints, kernel state, decisions.
