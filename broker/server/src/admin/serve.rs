//! The listener of the admin API: connections and their bounds.
//!
//! It speaks HTTP through hyper itself, because `axum::serve` knows neither a time for heads to arrive nor a
//! limit of connections. Whoever serves also waits: connections are tasks of one set that ends with it.

use super::guard::Peer;
use super::places::{Place, Places, Seat};
use super::{AdminState, limits, router};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::Service;

/// Serves the admin API until `shutdown` resolves and open requests are answered, or cut off after
/// [`limits::DRAIN_TIMEOUT`].
///
/// # Errors
/// When the listener is not one: it has no address.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "the admin API listens");
    let router = router(state);
    let places = Places::new();
    let (closing, is_closing) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        // Biased: a listener that is always busy must still hear of the shutdown. All branches are cancel-safe; an
        // accept that is given up takes no connection.
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            (stream, peer) = accept(&listener) => {
                // Short: another connection is closed for it where there is none.
                let place = places.take().await;
                let router = router.clone();
                let is_closing = is_closing.clone();
                connections.spawn(serve_connection(stream, (Peer(peer), place), router, is_closing));
            }
        }
    }
    drop(listener);
    closing.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits::DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!(connections = connections.len(), "admin requests were cut off by the shutdown");
    }
    connections.shutdown().await;
    Ok(())
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept");
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection to its end, or until another one needs its place.
async fn serve_connection(
    stream: TcpStream,
    (peer, place): (Peer, Place),
    router: Router,
    is_closing: watch::Receiver<bool>,
) {
    // Biased: a connection that is to give way takes no further request, which would be cut.
    tokio::select! {
        biased;
        () = place.give_way.notified() => {
            tracing::debug!(peer = %peer.0, "an admin connection that waited was closed for another one");
        }
        () = answer(stream, (peer, place.seat.clone()), router, is_closing) => {}
    }
}

async fn answer(
    stream: TcpStream,
    (peer, seat): (Peer, Seat),
    router: Router,
    mut is_closing: watch::Receiver<bool>,
) {
    let own_seat = seat.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        seat.handle_request();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(seat.clone());
        router.clone().call(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits::HEAD_TIMEOUT)
            .max_headers(limits::HEADERS_MAX)
            .max_buf_size(limits::HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service)
    );
    // Polling the connection is cancel-safe: it is polled again below.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = is_closing.wait_for(|closing| *closing) => None,
        () = tokio::time::sleep(limits::CONNECTION_AGE_MAX) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            // A tail ends with its reader: it goes on as long as that reads.
            loop {
                match tokio::time::timeout(limits::REQUEST_TIMEOUT, connection.as_mut()).await {
                    Ok(ended) => break ended,
                    Err(_) if own_seat.take_moved() => {}
                    Err(_) => {
                        return tracing::debug!(peer = %peer.0, "an admin connection does not end; cut off");
                    }
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.0, %error, "an admin connection failed");
    }
}
