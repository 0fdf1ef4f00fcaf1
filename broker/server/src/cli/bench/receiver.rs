//! Receiving: a task for each client, which takes messages as they come.

use super::clients::cause;
use super::run::{Arrival, Running};
use crate::clock::Clock;
use std::sync::Arc;
use waspmq_client::{Client, Event, Events, Messages};

#[derive(Debug)]
pub(super) struct Receiver {
    pub(super) running: Arc<Running>,
    pub(super) clock: Clock,
    /// Whose messages, and which of their receivers this is.
    pub(super) place: (usize, usize),
    pub(super) client: Arc<Client>,
    pub(super) messages: Messages,
}

impl Receiver {
    /// Until the client has ended.
    pub(super) async fn run(self) {
        let Self { running, clock, place, client, mut messages } = self;
        while let Some(message) = messages.recv().await {
            let arrival = Arrival {
                to: &message.to,
                content: message.content,
                payload: &message.payload,
                now_ns: clock.now_ns(),
            };
            if running.handle(place, arrival) {
                client.ack_in_order(&message);
            } else {
                // What else comes to this user is for other programs.
                client.pass_over(&message);
            }
        }
        if let Err(error) = client.ping().await {
            running.handle_receiver_ended(cause(&error));
        }
    }
}

/// Counts what the broker says it dropped because a client was slow; `publisher` is whose messages that client receives.
pub(super) async fn count_overflows(running: Arc<Running>, publisher: usize, mut events: Events) {
    while let Some(event) = events.recv().await {
        if let Event::Overflow(overflow) = event {
            running.handle_overflow(publisher, &overflow);
        }
    }
}
