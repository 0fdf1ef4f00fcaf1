//! QUIC sessions that say nothing: resident memory of each, CPU until they are there, idle CPU.
//!
//! The relay's connections have one open stream each, on which they subscribed to a channel; the broker's have
//! their session. Both send signs of life of QUIC, three in an idle timeout, and those are in the idle CPU.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::task::{JoinSet, LocalSet};

use super::client::{self, Link};
use crate::process::{self, Cpu};
use crate::wire::{Target, Wire};

/// Handshakes at the same time, below the number from which the broker asks for proofs of addresses.
const AT_ONCE: usize = 32;

/// Pause before each reading of memory, for what a server does after its last connection.
const SETTLE: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
pub(super) struct Sample {
    connections: u16,
    connections_per_s: f64,
    pub(super) server_us_per_accept: f64,
    pub(super) resident_bytes_per_connection: f64,
    resident_bytes_before: u64,
    resident_bytes_after: u64,
    /// Of one core.
    pub(super) idle_cpu_percent: f64,
    pub(super) disconnected: usize,
}

/// # Errors
/// When a connection is refused or `/proc` cannot be read.
pub(super) fn measure(wire: Wire, port: u16, pid: u32, connections: u16, idle: Duration) -> Result<Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, async {
        thread::sleep(SETTLE);
        let (resident_bytes_before, before) = (process::resident_bytes(pid)?, Cpu::of(pid)?);
        let start = Instant::now();
        let held = connect_all(wire, port, connections).await?;
        let connecting = start.elapsed().as_secs_f64();
        let connected = Cpu::of(pid)?;
        tokio::time::sleep(SETTLE).await;
        let (resident_bytes_after, settled, start) =
            (process::resident_bytes(pid)?, Cpu::of(pid)?, Instant::now());
        tokio::time::sleep(idle).await;
        let idle_cpu = Cpu::of(pid)?.since(&settled).total.as_secs_f64() / start.elapsed().as_secs_f64();
        let disconnected = held.iter().filter(|link| link.connection.close_reason().is_some()).count();
        let count = f64::from(connections);
        Ok(Sample {
            connections,
            connections_per_s: count / connecting,
            server_us_per_accept: connected.since(&before).total.as_secs_f64() * 1e6 / count,
            resident_bytes_per_connection: (resident_bytes_after as f64 - resident_bytes_before as f64)
                / count,
            resident_bytes_before,
            resident_bytes_after,
            idle_cpu_percent: idle_cpu * 100.0,
            disconnected,
        })
    })
}

async fn connect_all(wire: Wire, port: u16, connections: u16) -> Result<Vec<Link>> {
    let endpoint = client::endpoint()?;
    let (mut opening, mut held) = (JoinSet::new(), Vec::with_capacity(usize::from(connections)));
    for i in 0..connections {
        if opening.len() >= AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            held.push(opened??);
        }
        let endpoint = endpoint.clone();
        opening.spawn_local(async move {
            let mut link = Link::open(&endpoint, wire, port, &format!("i{i}")).await?;
            if wire == Wire::Relay {
                link.subscribe(Target::Receiver(i)).await?;
            }
            anyhow::Ok(link)
        });
    }
    while let Some(opened) = opening.join_next().await {
        held.push(opened??);
    }
    Ok(held)
}
