//! The HTTP request with which a connection becomes one of WebSocket, or is refused.
//!
//! What is not allowed is answered with an HTTP status and a sentence that says what to do; the socket is closed behind it.

use super::Worker;
use super::connection::{Connection, Stage};
use super::counters::Ended;
use crate::clock::Moment;
use crate::phase::Phase;
use waspmq_core::compression::Codecs;
use waspmq_protocol::Profile;
use waspmq_transport::{http, origin};

impl Worker {
    /// The HTTP request that opens a connection. `None` when it is not complete or was refused.
    pub(super) fn take_head(
        &mut self,
        connection: &mut Connection,
        bytes: &[u8],
        now: Moment,
    ) -> Option<usize> {
        let request = match http::parse(bytes) {
            Ok(request) => request?,
            Err(refusal) => {
                self.refuse_upgrade(connection, &refusal);
                return None;
            }
        };
        let settings = &self.shared.settings;
        let refusal = |status, reason, body| http::Refusal { status, reason, body };
        let refused = if self.shared.phase.load() > Phase::Ready {
            Some(refusal(503, "Service Unavailable", "The broker is leaving service; try again."))
        } else if request.path != "/ws" {
            Some(refusal(404, "Not Found", "WebSocket clients connect to /ws."))
        } else if settings.check_host && !origin::host_allowed(request.host, &settings.allowed_hosts) {
            Some(refusal(403, "Forbidden", "This Host is not served here; add it to access.allowed_hosts."))
        } else if !origin::origin_allowed(request.origin, request.host, &settings.allowed_origins) {
            Some(refusal(403, "Forbidden", "This Origin may not connect; add it to access.allowed_origins."))
        } else if request.upgrade.is_none() {
            Some(refusal(
                426,
                "Upgrade Required",
                "This is a WebSocket endpoint: connect with ws:// or wss://.",
            ))
        } else {
            None
        };
        let (None, Some(upgrade)) = (&refused, &request.upgrade) else {
            if let Some(refusal) = &refused {
                self.refuse_upgrade(connection, refusal);
            }
            return None;
        };
        let profile = upgrade.subprotocols.iter().find_map(|name| Profile::from_subprotocol(name));
        let deflate = upgrade.deflate.filter(|_| settings.compression.permessage_deflate);
        let mut response = Vec::with_capacity(256);
        http::accept_response(upgrade.key, profile.map(Profile::subprotocol), deflate, &mut response);
        connection.encoding.profile = profile.unwrap_or(Profile::Json);
        if deflate.is_some() {
            connection.encoding.codecs = Codecs::DEFLATE;
        }
        connection.stage = Stage::Open;
        connection.opened_us = now.us;
        self.outbox.push_own(connection, &response);
        Some(request.head_bytes)
    }

    fn refuse_upgrade(&mut self, connection: &mut Connection, refusal: &http::Refusal) {
        self.counters().handshakes_refused.add(1);
        let mut response = Vec::with_capacity(256);
        refusal.write(&mut response);
        self.outbox.push_own(connection, &response);
        self.start_closing(connection, Ended::Refused);
    }
}
