//! Python bindings of the data plane and nothing else: `sluicegate._native`, described in `_native.pyi`.
//!
//! Every call that may wait (for the I/O thread, for a lock) lets go of the interpreter first.

mod brex;
mod callbacks;
mod keys;
mod random;
mod seal;

use callbacks::Callbacks;
use pyo3::{
    create_exception,
    exceptions::{PyIndexError, PyRuntimeError, PyValueError},
    prelude::*,
    pybacked::PyBackedBytes,
    types::{PyBytes, PyList},
};
use random::random;
use serde::Serialize;
use sluice_core::{
    Body, DataplaneSpec, Dropped, ListenerSpec, Origin, Reason, Rejected, Shared, session::wireguard::PublicKey,
    special,
};
use sluice_io::{FilterSpec, PeerChange, Remembered};
use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

create_exception!(
    _native,
    NativeError,
    pyo3::exceptions::PyException,
    "A Listener could not be opened: what was tried, and the kernel's errno."
);

fn gone(error: sluice_io::Gone) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}

fn invalid(what: &str, error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{what}: {error}"))
}

/// A body that borrows Python's bytes, which never change. They are released at the next call after the I/O thread has
/// read them.
fn body_of(bytes: Bound<'_, PyBytes>) -> Body {
    Body::new(PyBackedBytes::from(bytes))
}

/// A caller's seconds as a duration: 0 to 86,400, and 0 for a value that is not a number.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value.clamp(0.0, 86_400.0)).unwrap_or_default()
}

/// What is special about an address, and whether a UDP server answers there; None for an ordinary one.
#[pyfunction]
#[pyo3(signature = (address))]
fn special_purpose(address: IpAddr) -> Option<(String, bool)> {
    let special = special::special(address.to_canonical())?;
    Some((special.to_string(), special.answered))
}

/// The words under which a Listener counts, by kind.
#[pyfunction]
fn reasons() -> BTreeMap<&'static str, Vec<&'static str>> {
    let rejected = |some: fn(Rejected) -> bool| {
        Rejected::ALL.iter().filter(move |one| some(**one)).map(|one| one.as_str()).collect()
    };
    BTreeMap::from([
        ("Dropped", Dropped::ALL.iter().map(|one| one.as_str()).collect()),
        ("Failed", Reason::ALL.iter().map(|one| one.as_str()).collect()),
        ("IcmpErrors", sluice_io::icmp_names().collect()),
        ("Rejected", rejected(|one| !one.of_wireguard() && !one.of_coap())),
        ("RejectedByCoap", rejected(Rejected::of_coap)),
        ("RejectedByWireGuard", rejected(Rejected::of_wireguard)),
    ])
}

#[pyclass(frozen, module = "sluicegate._native")]
struct Dataplane {
    dataplane: Arc<sluice_io::Dataplane>,
    callbacks: Callbacks,
}

#[pymethods]
impl Dataplane {
    #[new]
    fn new(spec_json: &str) -> PyResult<Dataplane> {
        let spec: DataplaneSpec = serde_json::from_str(spec_json).map_err(|e| invalid("data plane spec", e))?;
        let shared = Shared::new(&spec).map_err(|e| invalid("data plane spec", e))?;
        let dataplane = sluice_io::Dataplane::start(shared, random)?;
        Ok(Dataplane { dataplane: Arc::new(dataplane), callbacks: Callbacks::default() })
    }

    fn leave_waiting(&self, entries: u64) {
        self.dataplane.waiting().leave(entries);
    }

    fn set_waiting(&self, entries: u64) {
        self.dataplane.waiting().set(entries);
    }

    fn open(&self, py: Python<'_>, spec_json: &str) -> PyResult<Port> {
        let spec: ListenerSpec = serde_json::from_str(spec_json).map_err(|e| invalid("Listener spec", e))?;
        let name = spec.name.clone();
        match py.detach(|| self.dataplane.open(spec)).map_err(gone)? {
            Ok(port) => Ok(Port { dataplane: self.dataplane.clone(), callbacks: self.callbacks.clone(), name, port }),
            Err(error) => Err(NativeError::new_err((error.attempt, error.source.raw_os_error()))),
        }
    }

    #[getter]
    fn routes_error(&self) -> Option<String> {
        self.dataplane.routes_error().map(ToString::to_string)
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.dataplane.end());
        self.callbacks.clear();
    }

    fn fileno(&self) -> i32 {
        self.dataplane.signals().as_raw_fd()
    }

    fn dispatch(&self, py: Python<'_>) -> PyResult<()> {
        self.callbacks.call(py, self.dataplane.signals())
    }
}

#[pyclass(frozen, module = "sluicegate._native")]
struct Port {
    dataplane: Arc<sluice_io::Dataplane>,
    callbacks: Callbacks,
    name: String,
    port: sluice_io::Port,
}

/// Of an entry whose `SendAt` has come: its place in its message, its Ids, whether it is late.
type DueTuple = (u32, Vec<String>, bool);
type SubmissionTuple<'py> = (String, Option<f64>, usize, Bound<'py, PyBytes>, Option<(String, String)>);

#[pymethods]
impl Port {
    #[getter]
    fn local_address(&self) -> (String, u16) {
        let bound: SocketAddr = self.port.bound();
        (bound.ip().to_string(), bound.port())
    }

    #[getter]
    fn receive_buffer(&self) -> (usize, usize) {
        (sluice_io::RECEIVE_BUFFER, self.port.receive_buffer())
    }

    fn reader(&self, destination: usize) -> PyResult<Reader> {
        let queue = self.port.queue(destination).ok_or_else(|| PyIndexError::new_err("no such Destination"))?;
        Ok(Reader { queue, callbacks: self.callbacks.clone() })
    }

    fn reply(
        &self,
        py: Python<'_>,
        destination: usize,
        request_id: String,
        body: Bound<'_, PyBytes>,
    ) -> PyResult<bool> {
        if self.port.queue(destination).is_none() {
            return Err(PyIndexError::new_err("no such Destination"));
        }
        let submission = sluice_core::Submission {
            id: request_id,
            origin: Origin::Destination(destination),
            published_ms: None,
            body: body_of(body),
            refusal: None,
            due: None,
        };
        Ok(py.detach(|| self.port.submit([submission])) == 1)
    }

    fn submit(&self, py: Python<'_>, messages: Vec<SubmissionTuple<'_>>) -> PyResult<usize> {
        let submissions = messages.into_iter().map(|message| self.submission(message, None));
        let submissions = submissions.collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| self.port.submit(submissions)))
    }

    fn submit_due(&self, py: Python<'_>, messages: Vec<(SubmissionTuple<'_>, DueTuple)>) -> PyResult<usize> {
        let submissions = messages.into_iter().map(|(message, (index, ids, overdue))| {
            self.submission(message, Some(Box::new(sluice_core::Due { index, ids, overdue })))
        });
        let submissions = submissions.collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| self.port.submit(submissions)))
    }

    #[pyo3(signature = (callback))]
    fn on_completions(&self, callback: Option<Py<PyAny>>) {
        self.callbacks.set(self.port.completed(), callback);
    }

    fn completions(&self) -> Vec<Completion> {
        self.port.completions().into_iter().map(Completion).collect()
    }

    fn sent_ids(&self) -> Vec<(usize, String)> {
        self.port.sent_ids()
    }

    fn remember(&self, py: Python<'_>, ids: Vec<(usize, String, f64)>) -> PyResult<()> {
        let ids = ids
            .into_iter()
            .map(|(source, id, ago)| Remembered { source, id, ago: (ago >= 0.0).then(|| seconds(ago)) })
            .collect();
        py.detach(|| self.dataplane.remember(&self.port, ids)).map_err(gone)
    }

    fn update(&self, py: Python<'_>, spec_json: &str) -> PyResult<()> {
        let spec: ListenerSpec = serde_json::from_str(spec_json).map_err(|e| invalid("Listener spec", e))?;
        py.detach(|| self.dataplane.update(&self.port, spec)).map_err(gone)?.map_err(PyValueError::new_err)
    }

    #[pyo3(signature = (after, limit))]
    fn peers<'py>(&self, py: Python<'py>, after: Option<&str>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let key = |text| PublicKey::from_base64(text).ok_or_else(|| invalid("no public key", text));
        let after = after.map(key).transpose()?;
        let json = py.detach(|| {
            let peers = self.dataplane.peers(&self.port, after, limit)?;
            Ok(serde_json::to_vec(&peers).expect("the status of peers is JSON"))
        });
        json.map(|json| PyBytes::new(py, &json)).map_err(gone)
    }

    fn change_peers(&self, py: Python<'_>, change_json: &str) -> PyResult<()> {
        let change: PeerChange = serde_json::from_str(change_json).map_err(|e| invalid("change of peers", e))?;
        py.detach(|| self.dataplane.change_peers(&self.port, change)).map_err(gone)
    }

    #[pyo3(signature = (callback))]
    fn on_peer_changes(&self, callback: Option<Py<PyAny>>) {
        self.callbacks.set(self.port.peers_changed_signal(), callback);
    }

    fn peer_changes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let json = py.detach(|| serde_json::to_vec(&self.port.peer_changes()).expect("what is kept of peers is JSON"));
        PyBytes::new(py, &json)
    }

    fn stamp_wanted(&self) -> Option<u64> {
        self.port.stamp_wanted()
    }

    fn reserve_stamps(&self, until: u64) {
        self.port.reserve_stamps(until);
    }

    fn events(&self, filter_json: &str) -> PyResult<Events> {
        let filter: FilterSpec = serde_json::from_str(filter_json).map_err(|e| invalid("filter", e))?;
        let watch = self.port.watch(filter).map_err(|error| match error.kind() {
            ErrorKind::InvalidInput => invalid("filter", error),
            _ => error.into(),
        })?;
        Ok(Events { port: self.port.clone(), callbacks: self.callbacks.clone(), watch })
    }

    fn stats(&self, py: Python<'_>) -> PyResult<String> {
        let mut snapshot = py.detach(|| self.dataplane.counters(&self.port)).map_err(gone)?;
        let (ring_bytes, ring_messages) = self.port.ring_load();
        for (index, destination) in snapshot.counters.destinations.iter_mut().enumerate() {
            if let Some(queue) = self.port.queue(index) {
                (destination.queued_packets, destination.queued_bytes) = queue.waiting();
            }
        }
        let stats = Stats {
            listener: &self.name,
            counters: &snapshot.counters,
            kernel_drops: snapshot.kernel_drops,
            receive_buffer_bytes: self.port.receive_buffer(),
            icmp_errors: &snapshot.icmp_errors,
            ring_bytes,
            ring_messages,
        };
        Ok(serde_json::to_string(&stats).expect("counters are JSON"))
    }

    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.dataplane.stop(&self.port)).map_err(gone)
    }

    fn close(&self, py: Python<'_>, drain_seconds: f64) -> PyResult<()> {
        py.detach(|| self.dataplane.close(&self.port, seconds(drain_seconds))).map_err(gone)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Stats<'a> {
    listener: &'a str,
    #[serde(flatten)]
    counters: &'a sluice_core::Counters,
    kernel_drops: u64,
    receive_buffer_bytes: usize,
    icmp_errors: &'a BTreeMap<&'static str, u64>,
    ring_bytes: usize,
    ring_messages: usize,
}

#[pyclass(frozen, module = "sluicegate._native")]
struct Events {
    port: sluice_io::Port,
    callbacks: Callbacks,
    watch: Arc<sluice_io::Watch>,
}

#[pymethods]
impl Events {
    #[pyo3(signature = (callback))]
    fn on_ready(&self, callback: Option<Py<PyAny>>) {
        self.callbacks.set(self.watch.ready(), callback);
    }

    fn read<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.watch.read())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.watch.is_finished()
    }

    fn close(&self) {
        self.callbacks.set(self.watch.ready(), None);
        self.port.unwatch(&self.watch);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.close();
    }
}

#[pyclass(frozen, module = "sluicegate._native")]
struct Reader {
    queue: Arc<sluice_io::BatchQueue>,
    callbacks: Callbacks,
}

#[pymethods]
impl Reader {
    #[pyo3(signature = (callback))]
    fn on_ready(&self, callback: Option<Py<PyAny>>) {
        self.callbacks.set(self.queue.ready(), callback);
    }

    fn read(&self, py: Python<'_>, limit: usize) -> Vec<Batch> {
        py.detach(|| self.queue.read(limit)).into_iter().map(Batch).collect()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.queue.is_finished()
    }
}

#[pyclass(frozen, module = "sluicegate._native")]
struct Batch(sluice_core::Batch);

#[pymethods]
impl Batch {
    #[getter]
    fn count(&self) -> usize {
        self.0.count()
    }

    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.body())
    }

    fn records<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let records: Vec<_> = self.0.records().map(|record| PyBytes::new(py, record)).collect();
        PyList::new(py, records)
    }

    fn values<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyList>> {
        match self.0.values(name) {
            Some(values) => PyList::new(py, values.collect::<Vec<_>>()),
            None => PyList::new(py, vec![None::<&str>; self.0.count()]),
        }
    }

    fn lines<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, self.0.lines_len(), |out| {
            self.0.write_lines(out);
            Ok(())
        })
    }
}

impl Port {
    fn submission(
        &self,
        (id, published_at, source, body, refusal): SubmissionTuple<'_>,
        due: Option<Box<sluice_core::Due>>,
    ) -> PyResult<sluice_core::Submission> {
        if source >= self.port.sources() {
            return Err(PyIndexError::new_err("no such PacketSource"));
        }
        let refusal = match refusal {
            None => None,
            Some((reason, detail)) => {
                let known = Reason::from_name(&reason);
                Some((known.ok_or_else(|| invalid("unknown reason", &reason))?, detail))
            }
        };
        Ok(sluice_core::Submission {
            id,
            origin: Origin::Source(source),
            published_ms: published_at.map(|at| (at.max(0.0) * 1e3) as u64),
            body: body_of(body),
            refusal,
            due,
        })
    }
}

#[pyclass(frozen, module = "sluicegate._native")]
struct Completion(sluice_core::Completion);

#[pymethods]
impl Completion {
    #[getter]
    fn message_id(&self) -> &str {
        &self.0.id
    }

    #[getter]
    fn source(&self) -> Option<usize> {
        match self.0.origin {
            Origin::Source(index) => Some(index),
            Origin::Destination(_) => None,
        }
    }

    #[getter]
    fn destination(&self) -> Option<usize> {
        match self.0.origin {
            Origin::Source(_) => None,
            Origin::Destination(index) => Some(index),
        }
    }

    #[getter]
    fn entries(&self) -> u32 {
        self.0.entries
    }

    #[getter]
    fn sent(&self) -> u32 {
        self.0.sent
    }

    #[getter]
    fn duplicates(&self) -> u32 {
        self.0.duplicates
    }

    #[getter]
    fn failures(&self) -> Vec<(Option<u32>, &'static str, String)> {
        self.0.failures.iter().map(|f| (f.index, f.reason.as_str(), f.detail.clone())).collect()
    }

    #[getter]
    fn scheduled(&self) -> Vec<(u32, Option<u32>, u64, Option<String>)> {
        self.0.scheduled.iter().map(|one| (one.index, one.remote_index, one.at_ms, one.id.clone())).collect()
    }

    #[getter]
    fn remote_indexes(&self) -> Vec<Option<u32>> {
        match self.0.failures.iter().any(|failure| failure.remote_index.is_some()) {
            true => self.0.failures.iter().map(|failure| failure.remote_index).collect(),
            false => Vec::new(),
        }
    }
}

/// A new random Tag key: 64 hex digits.
#[pyfunction]
fn format_tag_key() -> String {
    random::<32>().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    sluice_io::stderr::say_panics();
    module.add("NativeError", module.py().get_type::<NativeError>())?;
    module.add_class::<Dataplane>()?;
    module.add_class::<Port>()?;
    module.add_class::<Reader>()?;
    module.add_class::<Batch>()?;
    module.add_class::<Events>()?;
    module.add_class::<Completion>()?;
    module.add_function(wrap_pyfunction!(brex::brex_error, module)?)?;
    module.add_function(wrap_pyfunction!(brex::brex_trace, module)?)?;
    module.add_function(wrap_pyfunction!(keys::generate_private_key, module)?)?;
    module.add_function(wrap_pyfunction!(keys::canonical_public_key, module)?)?;
    module.add_function(wrap_pyfunction!(keys::public_key, module)?)?;
    module.add_function(wrap_pyfunction!(reasons, module)?)?;
    module.add_function(wrap_pyfunction!(special_purpose, module)?)?;
    module.add_function(wrap_pyfunction!(seal::seal, module)?)?;
    module.add_function(wrap_pyfunction!(seal::unseal, module)?)?;
    module.add_function(wrap_pyfunction!(format_tag_key, module)?)
}
