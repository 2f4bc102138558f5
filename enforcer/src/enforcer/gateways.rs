//! Keeps in the kernel which MAC frames to a gateway must carry (B40).

use std::{sync::PoisonError, time::Instant};

use super::{Enforcer, Guarded};
use crate::{gateway::Depth, kernel::Attachment};

impl Enforcer {
    /// A bridge has changed: those whose gateway it is go by its MAC.
    pub(super) fn follow_gateways(&self) {
        self.all().iter().for_each(|guarded| guarded.follow_gateway());
    }
}

impl Guarded {
    /// The same as [`keep_gateway`](Self::keep_gateway) where a gateway is known, which costs little.
    pub(super) fn follow_gateway(&self) {
        if self.gateway.lock().unwrap_or_else(PoisonError::into_inner).is_known() {
            self.look_at_gateway(Depth::Bridge);
        }
    }

    /// Looks for the gateway and writes it to the kernel where it is another one there.
    pub(super) fn keep_gateway(&self) {
        self.look_at_gateway(Depth::Routes);
    }

    fn look_at_gateway(&self, depth: Depth) {
        let Attachment::Interface { name } = &self.config.attachment else { return };
        let mut following = self.gateway.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match following.look(name, &self.config.addresses, depth, Instant::now()) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(endpoint = &*self.config.uid, %error, "its gateway cannot be looked for");
                return;
            }
        };
        let Some(mut endpoint) = self.current() else { return };
        match endpoint.store_mut().keep_gateway(found) {
            Ok(false) => {}
            Ok(true) => tracing::info!(
                endpoint = &*self.config.uid,
                checked = found.is_known(),
                "frames to its gateway are held against another MAC"
            ),
            Err(error) => {
                tracing::warn!(endpoint = &*self.config.uid, %error, "its gateway was not written");
            }
        }
    }
}
