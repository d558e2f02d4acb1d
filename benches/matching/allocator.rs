//! Counts what the bench's only thread asks of the allocator, which is Beckon's own.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use mimalloc::MiMalloc;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often memory was asked for so far; growing something counts as well.
pub fn calls() -> u64 {
    CALLS.get()
}

/// The bytes that were asked for and not yet given back.
pub fn live_bytes() -> i64 {
    LIVE.get()
}

fn count(calls: u64, taken: usize, given: usize) {
    // A size fits: no object is larger than `isize::MAX`.
    let change = (taken as i64).wrapping_sub(given as i64);
    CALLS.set(CALLS.get().wrapping_add(calls));
    LIVE.set(LIVE.get().wrapping_add(change));
}

#[expect(unsafe_code, reason = "every call is handed on as it came")]
// SAFETY: it is mimalloc, which keeps the contract; counting touches two cells of the thread only,
// which need neither memory nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller's promises are those of the callee.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, 0, layout.size());
        // SAFETY: the caller's promises are those of the callee.
        unsafe { MiMalloc.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size(), 0);
        // SAFETY: the caller's promises are those of the callee.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size, layout.size());
        // SAFETY: the caller's promises are those of the callee.
        unsafe { MiMalloc.realloc(at, layout, size) }
    }
}
