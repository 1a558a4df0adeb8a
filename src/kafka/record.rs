//! Reading what anybody may have written: nothing in a record can panic.
//!
//! `rdkafka` takes a header's name for UTF-8 and panics where it is none. Kafka does not ask for that, so one record from a
//! client in C would end every worker that reads it, one after the other.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};

/// Headers kept of one record. A header costs some hundred bytes of memory for three on the wire.
pub const HEADERS_MAX: usize = 128;

/// The headers of a record that can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// Names and values, as they came.
    pub kept: Vec<(String, Option<Vec<u8>>)>,
    /// How many were left out: their names are not UTF-8, or they come after [`HEADERS_MAX`] others.
    pub left_out: usize,
}

/// Reads the headers of a record.
#[must_use]
pub fn headers(message: &BorrowedMessage<'_>) -> Headers {
    let mut headers = Headers::default();
    let Some(all) = message.headers() else { return headers };
    let count = all.count();
    for at in 0..count.min(HEADERS_MAX) {
        let read = quietly(|| all.try_get(at).map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))));
        headers.kept.extend(read.flatten());
    }
    headers.left_out = count - headers.kept.len();
    headers
}

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic because of foreign bytes; none if it does. Nobody hears of the panic: a stream of such records
/// would fill the log.
fn quietly<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !READING.get() {
                others(panic);
            }
        }));
    });
    READING.set(true);
    // What is read is borrowed from the message, which stays whole and is freed by its owner.
    let read = panic::catch_unwind(AssertUnwindSafe(read));
    READING.set(false);
    read.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_reading_is_no_panic_of_ours() {
        assert_eq!(quietly(|| 7), Some(7));
        let name = b"bad\xff\xfe".to_vec();
        assert_eq!(quietly(|| String::from_utf8(name).expect("UTF-8")), None);
        assert!(!READING.get(), "later panics are heard");
    }
}
