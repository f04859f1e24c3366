//! What others may ask of the I/O thread.

use crate::{Port, Snapshot, schedule::Key, socket::OpenError};
use serde::Deserialize;
use sluice_core::{
    ListenerSpec,
    session::wireguard::{PeerStatus, PublicKey, Secret},
    spec::PeerSpec,
};
use std::{sync::mpsc, time::Duration};

/// What the thread is asked for, and where it answers.
pub(crate) enum Command {
    Open(Box<ListenerSpec>, mpsc::SyncSender<Result<Port, OpenError>>),
    Stop(Key, mpsc::SyncSender<()>),
    Close(Key, Duration, mpsc::SyncSender<()>),
    Counters(Key, mpsc::SyncSender<Option<Snapshot>>),
    Remember(Key, Vec<Remembered>, mpsc::SyncSender<()>),
    Update(Key, Box<ListenerSpec>, mpsc::SyncSender<Result<(), String>>),
    Peers(Key, Option<PublicKey>, usize, mpsc::SyncSender<Vec<PeerStatus>>),
    ChangePeers(Key, PeerChange, mpsc::SyncSender<()>),
    End,
}

/// An `Id` that a PacketSource sent, or put off to its `SendAt`, before this start.
#[derive(Clone, Debug)]
pub struct Remembered {
    /// Index of the PacketSource.
    pub source: usize,
    /// The Id.
    pub id: String,
    /// How long ago it was sent; None: it is to be sent later.
    pub ago: Option<Duration>,
}

/// What changes about a `wg` Listener's peers.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
pub struct PeerChange {
    /// Peers that are new or changed.
    pub set: Vec<PeerSpec>,
    /// Peers that are listed no longer.
    pub remove: Vec<PublicKey>,
    /// Peers whose handshakes may have any stamp again.
    pub forget_stamps: Vec<PublicKey>,
    /// How unknown peers are met from now on, if otherwise than before.
    pub unknown: Option<UnknownPeers>,
}

/// How unknown peers are met.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct UnknownPeers {
    /// They may speak to the Listener,
    pub allow_unknown_peers: bool,
    /// if they know this.
    pub unknown_peer_pre_shared_key: Option<Secret>,
}
