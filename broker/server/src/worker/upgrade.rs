//! The HTTP request with which a connection becomes one of WebSocket or of events, or is refused.
//!
//! What is not allowed is answered with an HTTP status and a sentence that says what to do; the socket is closed behind it.

use super::Worker;
use super::connection::{Connection, Stage};
use super::counters::{Ended, Transport};
use super::posted::Path;
use crate::clock::Moment;
use crate::phase::Phase;
use waspmq_core::compression::Codecs;
use waspmq_core::{Code, Reject};
use waspmq_protocol::Profile;
use waspmq_transport::{http, origin};

impl Worker {
    /// Takes what comes before WebSocket or events begin; gives its bytes.
    pub(super) fn take_requests(&mut self, connection: &mut Connection, bytes: &[u8], now: Moment) -> usize {
        let mut consumed = 0;
        while connection.stage == Stage::Http {
            let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) else { break };
            let Some(taken) = self.take_http(connection, rest, now) else { break };
            consumed += taken;
            // Who does not read its answers is not given more of them: as [`Self::pause`] has it between two reads.
            if connection.stage == Stage::Http && connection.out.owes_much() && consumed < bytes.len() {
                self.hold_rest(connection);
                break;
            }
        }
        consumed
    }

    /// Takes a part of that: the head of a request or its body; gives its bytes. `None` when it is not complete, or was
    /// refused.
    fn take_http(&mut self, connection: &mut Connection, bytes: &[u8], now: Moment) -> Option<usize> {
        if connection.post().is_some() {
            return self.take_body(connection, bytes);
        }
        self.take_head(connection, bytes, now)
    }

    /// The head of a request. `None` when it is not complete or was refused.
    fn take_head(&mut self, connection: &mut Connection, bytes: &[u8], now: Moment) -> Option<usize> {
        let request = match http::parse(bytes) {
            Ok(request) => request?,
            Err(refusal) => {
                self.refuse_upgrade(connection, &refusal, http::Asker::of_bytes(bytes));
                return None;
            }
        };
        let settings = &self.shared.settings;
        let refusal = |status, reason, body| http::Refusal { status, reason, body };
        let path = Path::parse(request.path);
        let is_known = request.path == "/ws" || request.path == "/sse" || path.is_some();
        let is_leaving = self.shared.phase.load() > Phase::Ready;
        let refused = if !is_known {
            Some(refusal(
                404,
                "Not Found",
                "Clients connect to /ws, or to /sse where WebSocket does not get through.",
            ))
        } else if is_leaving && request.path == "/ws" {
            Some(refusal(503, "Service Unavailable", "The broker is leaving service; try again."))
        } else if settings.check_host && !origin::host_allowed(request.host, &settings.allowed_hosts) {
            Some(refusal(403, "Forbidden", "This Host is not served here; add it to access.allowed_hosts."))
        } else if !origin::origin_allowed(request.origin, request.host, &settings.allowed_origins) {
            Some(refusal(403, "Forbidden", "This Origin may not connect; add it to access.allowed_origins."))
        } else if request.path != "/ws" && request.is_foreign() {
            Some(refusal(
                403,
                "Forbidden",
                "A page of another site may ask for this only where it says its Origin.",
            ))
        } else if request.path == "/ws" && request.upgrade.is_none() {
            Some(refusal(
                426,
                "Upgrade Required",
                "This is a WebSocket endpoint: connect with ws:// or wss://.",
            ))
        } else {
            None
        };
        if let Some(refusal) = &refused {
            self.refuse_upgrade(connection, refusal, request.asker());
            return None;
        }
        match (request.path, path) {
            ("/sse", _) | (_, Some(_)) if request.method == "OPTIONS" => {
                self.answer_preflight(connection, &request, bytes.len())
            }
            ("/sse", _) if is_leaving => {
                let reject = Reject::new(Code::Draining, "the broker is leaving service");
                self.refuse_events(connection, &reject, request.asker());
                None
            }
            ("/sse", _) => self.open_events(connection, &request, now),
            (_, Some(path)) => self.take_post(connection, (&request, path), now),
            _ => self.upgrade(connection, &request, now),
        }
    }

    /// Makes a connection one of WebSocket; gives the bytes of the request.
    fn upgrade(
        &mut self,
        connection: &mut Connection,
        request: &http::Request<'_>,
        now: Moment,
    ) -> Option<usize> {
        let upgrade = request.upgrade.as_ref()?;
        self.note_transport(connection, Transport::WebSocket);
        let settings = &self.shared.settings;
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
        connection.awaited_us = now.us;
        self.outbox.push_own(connection, &response);
        Some(request.head_bytes)
    }

    fn refuse_upgrade(
        &mut self,
        connection: &mut Connection,
        refusal: &http::Refusal,
        asker: http::Asker<'_>,
    ) {
        self.counters().handshakes_refused.add(1);
        let mut response = Vec::with_capacity(256);
        http::error_response(refusal, asker, &mut response);
        self.outbox.push_own(connection, &response);
        self.start_closing(connection, Ended::Refused);
    }
}
