//! The places of the admin listener's connections, and which of them gives way when all are taken.
//!
//! A request that the token lets in keeps its connection's place until its answer is written; fewer of them run at once than there are
//! places. All other connections, whose head has not come, that idle, or that are no operator's, only keep theirs while nobody else
//! wants it: the one that waits longest is closed for the next. So whoever holds connections open without saying anything keeps nobody
//! from being served, a probe least of all, and needs no token to be told from one. Deliberately not here: what is in a request.

use super::limits;
use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

/// At most [`limits::CONNECTIONS_MAX`] entries.
#[derive(Debug, Default)]
struct Taken {
    /// Counts what happens: the order of everything.
    turn: u64,
    by_number: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// When it began to wait; `None` while an operator's request is served.
    waits_since: Option<u64>,
    /// Whether it was told to give way: nothing begins on it any more.
    is_over: bool,
    give_way: Arc<Notify>,
}

/// A connection's place; dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) seat: Seat,
    pub(super) give_way: Arc<Notify>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// What a connection's requests know of its place.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    places: Arc<Places>,
    number: u64,
    /// Whether more of an operator's answer was asked for since somebody looked: its peer reads it.
    moved: Arc<AtomicBool>,
}

/// An operator's request that is served.
#[derive(Debug)]
pub(super) struct Held {
    seat: Option<Seat>,
    _request: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(limits::CONNECTIONS_MAX)), taken: Mutex::default() })
    }

    /// A place, for which another connection may have to end.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        let permit = match Arc::clone(&self.free).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.make_room();
                // A semaphore is only closed by hand, so there always is a permit.
                Arc::clone(&self.free).acquire_owned().await.ok()
            }
        };
        let give_way = Arc::new(Notify::new());
        let mut taken = self.taken();
        let number = taken.next();
        let entry = Entry { waits_since: Some(number), is_over: false, give_way: Arc::clone(&give_way) };
        taken.by_number.insert(number, entry);
        drop(taken);
        let seat = Seat { places: Arc::clone(self), number, moved: Arc::default() };
        Place { seat, give_way, _permit: permit }
    }

    fn make_room(&self) {
        let mut taken = self.taken();
        let waiting = taken.by_number.values_mut().filter(|entry| entry.waits_since.is_some());
        if let Some(longest) = waiting.min_by_key(|entry| entry.waits_since) {
            longest.is_over = true;
            longest.give_way.notify_one();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap()
    }
}

impl Taken {
    const fn next(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.places.taken().by_number.remove(&self.seat.number);
    }
}

impl Seat {
    /// A request has come, or is over.
    pub(super) fn handle_request(&self) {
        self.set(Some);
    }

    /// Whether the peer has read on in an operator's answer since this was asked last.
    pub(super) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    /// False for a connection that gives way.
    fn set(&self, waits_since: impl FnOnce(u64) -> Option<u64>) -> bool {
        let mut taken = self.places.taken();
        let turn = taken.next();
        let entry = taken.by_number.get_mut(&self.number).filter(|entry| !entry.is_over);
        entry.map(|entry| entry.waits_since = waits_since(turn)).is_some()
    }
}

impl Held {
    /// `None` when the connection gives way: what it asks for would be done without an answer.
    pub(super) fn new(request: OwnedSemaphorePermit, seat: Option<Seat>) -> Option<Self> {
        let is_served = seat.as_ref().is_none_or(|seat| seat.set(|_| None));
        is_served.then(|| Self { seat, _request: request })
    }

    /// Until the answer is written, or its connection is gone.
    pub(super) fn until_written(self, response: Response) -> Response {
        response.map(|body| Body::new(Holding { body, held: self }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(seat) = &self.seat {
            seat.handle_request();
        }
    }
}

/// A body that is the one within.
struct Holding {
    body: Body,
    held: Held,
}

impl HttpBody for Holding {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(seat) = &self.held.seat {
            seat.moved.store(true, Ordering::Relaxed);
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_asked(place: &Place) -> bool {
        tokio::time::timeout(std::time::Duration::ZERO, place.give_way.notified()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_gives_way_and_no_operator() {
        let places = Places::new();
        let mut taken = Vec::new();
        for _ in 0..limits::CONNECTIONS_MAX {
            taken.push(places.take().await);
        }
        let requests = Arc::new(Semaphore::new(limits::REQUESTS_MAX));
        let hold = |place: &Place| {
            let request = Arc::clone(&requests).try_acquire_owned().unwrap();
            Held::new(request, Some(place.seat.clone()))
        };
        let held = hold(&taken[0]).unwrap();
        taken[1].seat.handle_request();
        let mut late = Box::pin(places.take());
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut late).await.is_err());
        for (index, place) in taken.iter().enumerate() {
            assert_eq!(is_asked(place).await, index == 2, "{index}");
        }
        assert!(hold(&taken[2]).is_none(), "its answer would be cut");
        taken.remove(2);
        let late = late.await;
        // An answer that is written makes its connection the one that has waited least.
        drop(held);
        for place in &taken[2..] {
            place.seat.handle_request();
        }
        late.seat.handle_request();
        let mut next = Box::pin(places.take());
        assert!(tokio::time::timeout(std::time::Duration::ZERO, &mut next).await.is_err());
        assert!(!is_asked(&taken[0]).await && is_asked(&taken[1]).await);
    }
}
