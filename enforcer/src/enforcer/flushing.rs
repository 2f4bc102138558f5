//! Bindings that somebody takes back. What the two steps are for is said in [`crate::endpoints`]'s `flush`.

use nameward_policy::Name;

use super::{Enforcer, EnforcerError, now};
use crate::endpoints::FlushedName;

impl Enforcer {
    /// Begins to take names of an endpoint back; resolvers have to forget them next. Returns the generation of its rules.
    ///
    /// # Errors
    /// [`EnforcerError::NoSuchEndpoint`].
    pub(crate) fn begin_flush(&self, uid: &str, names: &[Name]) -> Result<u32, EnforcerError> {
        // Rules that come later do not find them, either.
        names.iter().for_each(|name| self.live_answers().forget(name));
        loop {
            if let Some(mut endpoint) = self.guarded(uid)?.current() {
                endpoint.begin_flush(names);
                return Ok(endpoint.generation());
            }
        }
    }

    /// Takes them back, when resolvers have forgotten them.
    ///
    /// # Errors
    /// [`EnforcerError`]; see [`Endpoint::finish_flush`](crate::endpoints::Endpoint::finish_flush).
    pub(crate) fn finish_flush(&self, uid: &str, names: &[Name]) -> Result<Vec<FlushedName>, EnforcerError> {
        loop {
            let guarded = self.guarded(uid)?;
            let Some(mut endpoint) = guarded.current() else { continue };
            return endpoint.finish_flush(names, now()).map_err(|source| EnforcerError::Endpoint {
                uid: guarded.config.uid.clone(),
                source: Box::new(source),
            });
        }
    }
}
