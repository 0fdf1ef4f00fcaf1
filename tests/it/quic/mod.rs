//! What only QUIC and WebTransport have: their clients, peers that do not behave, and sessions that move.

mod client;
mod datagrams;
mod hostile;
mod moving;
mod proxy;
mod raw;
mod streams;
