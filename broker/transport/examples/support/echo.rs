//! An echo server: the loop around [`Decoder`] and the closing handshake that any owner of a socket has to write.
//!
//! Shared by the example and by the tests over real sockets. Simpler than a broker's worker where nothing is lost:
//! a buffer per connection, and no reading while a write is blocked.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use waspmq_transport::http::{self, Refusal};
use waspmq_transport::limits::HEAD_BYTES_MAX;
use waspmq_transport::websocket::{
    Decoder, Deflater, Event, Inflater, Limits, Opcode, write_close, write_frame, write_pong,
};

/// Autobahn's largest messages have 16 MiB, its most fragmented 65,536 fragments.
const LIMITS: Limits =
    Limits { message_bytes_max: 64 * 1024 * 1024, fragments_max: 1 << 20, control_frames_max: 1 << 20 };

/// What the echoes are compressed at: the middle of what zlib has.
const LEVEL: u8 = 6;

/// Free space offered to each read.
const READ_BYTES: usize = 64 * 1024;

/// Answers are gathered up to this size before they are written.
const WRITE_BYTES: usize = 256 * 1024;

/// How long a peer may take to end the connection after our close frame.
const LINGER: Duration = Duration::from_secs(2);

/// Serves until accepting fails. One connection's failure is its own.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(connection(stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut stream: TcpStream) -> io::Result<()> {
    let mut received = Vec::new();
    let mut out = Vec::new();
    if let Some(compression) = handshake(&mut stream, &mut received, &mut out).await? {
        echo(&mut stream, compression, &mut received, &mut out).await?;
    }
    stream.write_all(&out).await?;
    finish(stream).await
}

/// Both directions, where permessage-deflate was negotiated.
type Compression = Option<(Inflater, Deflater)>;

/// Leaves an answer in `out` and, when it is an upgrade, what came behind the request in `received`.
async fn handshake(
    stream: &mut TcpStream,
    received: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<Option<Compression>> {
    const NO_UPGRADE: Refusal =
        Refusal { status: 426, reason: "Upgrade Required", body: "Only WebSocket is spoken here." };
    loop {
        received.reserve(HEAD_BYTES_MAX);
        if stream.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let refusal = match http::parse(received) {
            Ok(None) => continue,
            Ok(Some(request)) => match request.upgrade {
                Some(upgrade) => {
                    http::accept_response(upgrade.key, None, upgrade.deflate, out);
                    let compression = upgrade.deflate.map(|_| (Inflater::default(), Deflater::new(LEVEL)));
                    let head_bytes = request.head_bytes;
                    received.drain(..head_bytes);
                    return Ok(Some(compression));
                }
                None => NO_UPGRADE,
            },
            Err(refusal) => refusal,
        };
        http::error_response(&refusal, http::Asker::default(), out);
        return Ok(None);
    }
}

/// Echoes until the peer closes, breaks the protocol or goes away; then `out` holds what is left to be said.
async fn echo(
    stream: &mut TcpStream,
    compression: Compression,
    received: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let mut decoder = Decoder::new();
    let (mut inflater, mut deflater) = compression.unzip();
    loop {
        let mut start = 0;
        loop {
            let decoded = match decoder.decode(&mut received[start..], inflater.as_mut(), &LIMITS) {
                Ok(decoded) => decoded,
                Err(violation) => {
                    write_close(violation.close_code(), violation.reason(), out);
                    return Ok(());
                }
            };
            start += decoded.consumed;
            match decoded.event {
                Event::Message { is_text, data, compressed_bytes } => {
                    let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
                    match deflater.as_mut().filter(|_| compressed_bytes.is_some()) {
                        Some(deflater) => deflater.write_frame(opcode, &data, out),
                        None => write_frame(opcode, &data, out),
                    }
                }
                Event::Ping(payload) => write_pong(payload, out),
                Event::Pong(_) => {}
                Event::Close { code, .. } => {
                    write_close(code, "", out);
                    return Ok(());
                }
                Event::NeedMore { .. } => break,
            }
            if out.len() >= WRITE_BYTES {
                write_out(stream, out).await?;
            }
        }
        received.drain(..start);
        write_out(stream, out).await?;
        received.reserve(READ_BYTES);
        if stream.read_buf(received).await? == 0 {
            return Ok(());
        }
    }
}

async fn write_out(stream: &mut TcpStream, out: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(out).await?;
    out.clear();
    Ok(())
}

/// Ends the connection so that the peer reads our last bytes. Closing with unread input would send a reset, which
/// may overtake them; so the input is read to its end first, for a bounded time.
async fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut skipped = vec![0; READ_BYTES];
    let drain = async {
        while stream.read(&mut skipped).await? > 0 {}
        Ok(())
    };
    tokio::time::timeout(LINGER, drain).await.unwrap_or(Ok(()))
}
