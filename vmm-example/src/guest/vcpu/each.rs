//! Does the same work for all vCPUs of a parked guest, in as many threads as it is worth.

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Saving or restoring this many vCPUs takes longer than starting a helper thread.
const PER_THREAD: usize = 4;

/// The number of threads for `count` vCPUs. For small guests the host's CPUs are not counted, which
/// would read files.
pub(super) fn threads(count: usize) -> usize {
    match count.div_ceil(PER_THREAD) {
        0 | 1 => 1,
        most => thread::available_parallelism().map_or(1, |cpus| most.min(cpus.get())),
    }
}

/// Does `work` for all, in this thread and `threads - 1` others, and returns the results in the
/// order of `all`, or the first error.
pub(super) fn each<A: Sync, T: Send, E: Send>(
    all: &[A],
    threads: usize,
    work: impl Fn(&A) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            match all.get(at) {
                Some(one) => done.push((at, work(one))),
                None => return done,
            }
        }
    };
    let mut done = thread::scope(|scope| {
        let help = |_| thread::Builder::new().spawn_scoped(scope, take_turns);
        // If a thread cannot be started, the others have more to do.
        let helpers: Vec<_> = (1..threads).map(help).filter_map(Result::ok).collect();
        let mut done = take_turns();
        for helper in helpers {
            match helper.join() {
                Ok(more) => done.extend(more),
                Err(reason) => panic::resume_unwind(reason),
            }
        }
        done
    });
    done.sort_unstable_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::{Barrier, Mutex};

    #[test]
    fn everything_is_done_once_and_in_order() {
        let numbers: Vec<u32> = (0..100).collect();
        for threads in [0, 1, 3, 200] {
            let seen = Mutex::new(Vec::new());
            let doubled = each(&numbers, threads, |n| {
                seen.lock().unwrap().push(*n);
                Ok::<_, ()>(n * 2)
            });
            assert!(doubled.unwrap().into_iter().eq((0..100).map(|n| n * 2)));
            let mut seen = seen.into_inner().unwrap();
            seen.sort_unstable();
            assert_eq!(seen, numbers);
        }
    }

    #[test]
    fn they_work_at_the_same_time() {
        // None continues before all three have arrived.
        let together = Barrier::new(3);
        let who = each(&[(); 3], 3, |()| {
            together.wait();
            Ok::<_, ()>(thread::current().id())
        });
        let who: HashSet<_> = who.unwrap().into_iter().collect();
        assert_eq!(who.len(), 3);
    }

    #[test]
    fn the_first_of_many_errors_is_returned() {
        let failed = each(&[1, 2, 3, 4], 2, |n| match n % 2 {
            0 => Err(*n),
            _ => Ok(()),
        });
        assert_eq!(failed, Err(2));
    }

    #[test]
    fn a_few_vcpus_are_worth_no_thread() {
        assert_eq!(threads(1), 1);
        assert_eq!(threads(PER_THREAD), 1);
        let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        assert_eq!(threads(1000), cpus.min(250));
    }
}
