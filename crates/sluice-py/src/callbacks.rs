//! Who is called when something of a Listener is ready: callables of Python, by the key of the signal they wait for.

use pyo3::prelude::*;
use sluice_io::{Signal, Signals};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The callables of one data plane; clones share them. Whoever waits no longer says so, because the interpreter cannot
/// see what is held here.
#[derive(Clone, Default)]
pub struct Callbacks(Arc<Mutex<HashMap<u64, Py<PyAny>>>>);

impl Callbacks {
    /// `callback` waits for `signal` from now on; None: nobody does.
    pub fn set(&self, signal: &Signal, callback: Option<Py<PyAny>>) {
        let watched = callback.is_some();
        // What is dropped here may run code of Python's, which must find the lock open.
        let _before = match callback {
            Some(callback) => self.lock().insert(signal.key(), callback),
            None => self.lock().remove(&signal.key()),
        };
        signal.watch(watched);
    }

    /// Nobody waits for anything.
    pub fn clear(&self) {
        let _before = std::mem::take(&mut *self.lock());
    }

    /// Calls everybody whose signal is set, each once. One that raises keeps no other from its call; the first
    /// exception is raised afterwards.
    pub fn call(&self, py: Python<'_>, signals: &Signals) -> PyResult<()> {
        let mut result = Ok(());
        for key in signals.ready() {
            // One that was called before may have seen to another's end.
            let Some(callback) = signals.is_ready(key).then(|| self.get(py, key)).flatten() else { continue };
            result = result.and(callback.call0(py).map(drop));
        }
        result
    }

    fn get(&self, py: Python<'_>, key: u64) -> Option<Py<PyAny>> {
        self.lock().get(&key).map(|callback| callback.clone_ref(py))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Py<PyAny>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
