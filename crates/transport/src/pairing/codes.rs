//! The short code that is open, if any.
//!
//! Owns its life: one at a time, used once, void at the first wrong proof. Must never say a code to anybody but the
//! owner's screen. A code stands for the secret of the invite that it was shown with: whoever proves it gets what the
//! bearer of that invite gets.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::code::ShortCode;
use crate::invite::Secret;

/// The register; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Codes(Arc<Mutex<Book>>);

/// Somebody tried a code and was wrong, which has spent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedCode {
    /// Where the attempt came from.
    pub remote: IpAddr,
    /// When.
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Book {
    open: Option<OpenCode>,
    /// Tells codes apart that were opened one after the other.
    serial: u64,
    failed: Option<FailedCode>,
}

#[derive(Debug)]
struct OpenCode {
    serial: u64,
    code: ShortCode,
    secret: Secret,
    until: Instant,
}

/// What became of a proof.
#[derive(Debug)]
pub(crate) enum Tried<P> {
    /// It was right, the code is spent, and this is the invite that it stood for.
    Right(Secret, P),
    /// It was wrong, and the code is void.
    Wrong,
    /// The code is not open any more.
    Gone,
}

impl Book {
    fn open_at(&mut self, now: Instant) -> Option<&OpenCode> {
        if self.open.as_ref().is_some_and(|open| open.until <= now) {
            self.open = None;
        }
        self.open.as_ref()
    }

    fn try_at<P>(
        &mut self,
        (now, remote): (Instant, IpAddr),
        serial: u64,
        check: impl FnOnce() -> Option<P>,
    ) -> Tried<P> {
        match self.open_at(now) {
            Some(open) if open.serial == serial => {}
            _ => return Tried::Gone,
        }
        let spent = self.open.take();
        match (check(), spent) {
            (Some(proven), Some(open)) => Tried::Right(open.secret, proven),
            _ => {
                self.failed = Some(FailedCode { remote, at: now });
                Tried::Wrong
            }
        }
    }
}

impl Codes {
    fn book(&self) -> MutexGuard<'_, Book> {
        // What is inside is whole after every statement, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a new code for an invite; one that was open before is closed. The failure of an earlier one is forgotten.
    #[must_use]
    pub fn open(&self, secret: Secret, ttl: Duration) -> ShortCode {
        let code = ShortCode::generate();
        let now = Instant::now();
        let mut book = self.book();
        book.serial += 1;
        book.failed = None;
        book.open = Some(OpenCode {
            serial: book.serial,
            code: code.clone(),
            secret,
            until: now.checked_add(ttl).unwrap_or(now),
        });
        code
    }

    /// Closes the open code, whatever it stands for.
    pub fn close(&self) {
        self.book().open = None;
    }

    /// Closes the open code if it stands for this invite: somebody has used the URL.
    pub fn close_for(&self, secret: &Secret) {
        let mut book = self.book();
        if book
            .open
            .as_ref()
            .is_some_and(|open| open.secret.same(secret))
        {
            book.open = None;
        }
    }

    /// Whether a code is open now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.book().open_at(Instant::now()).is_some()
    }

    /// The wrong attempt that has spent the last code, if there was one.
    #[must_use]
    pub fn failed(&self) -> Option<FailedCode> {
        self.book().failed
    }

    /// The open code and its number.
    pub(crate) fn current(&self) -> Option<(u64, ShortCode)> {
        let mut book = self.book();
        let open = book.open_at(Instant::now())?;
        Some((open.serial, open.code.clone()))
    }

    /// Checks a proof of a code, once: whatever comes of it, the code is spent. Of several at once one is checked.
    pub(crate) fn attempt<P>(
        &self,
        remote: IpAddr,
        serial: u64,
        check: impl FnOnce() -> Option<P>,
    ) -> Tried<P> {
        self.book().try_at((Instant::now(), remote), serial, check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn somewhere() -> IpAddr {
        IpAddr::from([192, 0, 2, 7])
    }

    #[test]
    fn a_code_is_good_once() {
        let codes = Codes::default();
        assert!(!codes.is_open());
        let secret = Secret::generate();
        let shown = codes.open(secret.clone(), HOUR);
        let (serial, code) = codes.current().unwrap();
        assert_eq!(shown, code);
        let Tried::Right(got, 5) = codes.attempt(somewhere(), serial, || Some(5)) else {
            panic!("the right proof was refused");
        };
        assert!(got.same(&secret));
        assert!(!codes.is_open() && codes.failed().is_none());
        assert!(matches!(
            codes.attempt(somewhere(), serial, || Some(5)),
            Tried::Gone
        ));
    }

    #[test]
    fn one_wrong_proof_voids_it_and_the_owner_sees_where_from() {
        let codes = Codes::default();
        let _shown = codes.open(Secret::generate(), HOUR);
        let (serial, _) = codes.current().unwrap();
        let wrong = codes.attempt(somewhere(), serial, || None::<()>);
        assert!(matches!(wrong, Tried::Wrong));
        assert_eq!(codes.failed().unwrap().remote, somewhere());
        let late = codes.attempt(somewhere(), serial, || -> Option<()> {
            panic!("a void code is not even compared")
        });
        assert!(matches!(late, Tried::Gone));
        let _shown = codes.open(Secret::generate(), HOUR);
        assert!(codes.is_open() && codes.failed().is_none());
    }

    #[test]
    fn a_new_code_a_used_url_and_time_close_it() {
        let codes = Codes::default();
        let (first, second) = (Secret::generate(), Secret::generate());
        let _shown = codes.open(first.clone(), HOUR);
        let (old, _) = codes.current().unwrap();
        let _shown = codes.open(second.clone(), HOUR);
        assert!(matches!(
            codes.attempt(somewhere(), old, || Some(())),
            Tried::Gone
        ));
        codes.close_for(&first);
        assert!(codes.is_open(), "another invite was used");
        codes.close_for(&second);
        assert!(!codes.is_open());
        let _shown = codes.open(second, HOUR);
        let now = Instant::now();
        assert!(codes.book().open_at(now).is_some());
        assert!(codes.book().open_at(now + 2 * HOUR).is_none());
        let _shown = codes.open(first, HOUR);
        codes.close();
        assert!(!codes.is_open());
    }
}
