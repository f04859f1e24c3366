//! Locks that are held for the length of a push or a pop.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes the lock. No code that can panic runs under one of this crate's, so a poisoned lock guards nothing half done.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
