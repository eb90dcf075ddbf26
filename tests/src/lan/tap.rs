//! A TAP device: the end of a machine's cable.
//!
//! The one place of the tests that speaks to the kernel by `ioctl`: crates that make TAP devices also set up addresses and
//! routes, and bring features of other crates that the whole workspace would be built with.
#![allow(
    unsafe_code,
    reason = "TUNSETIFF has no safe form; one call with a structure of the size that the kernel reads and writes"
)]

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::relay::{Got, Port};

const TUNSETIFF: Opcode = opcode::write::<c_int>(b'T', 202);
const IFF_TAP: u16 = 0x0002;
const IFF_NO_PI: u16 = 0x1000;
/// Bytes of an interface's name, the closing zero included.
const NAME_BYTES: usize = 16;

/// `struct ifreq` as `TUNSETIFF` uses it.
#[repr(C)]
struct Request {
    name: [u8; NAME_BYTES],
    flags: u16,
    rest: [u8; 22],
}

/// An open TAP device. It disappears, wherever it was moved, when this is dropped.
#[derive(Debug)]
pub(super) struct Tap(File);

impl Tap {
    /// Makes the device `name` in the caller's network namespace.
    pub fn open(name: &str) -> io::Result<Self> {
        let mut request = Request {
            name: [0; NAME_BYTES],
            flags: IFF_TAP | IFF_NO_PI,
            rest: [0; 22],
        };
        let room = request
            .name
            .get_mut(..name.len())
            .filter(|_| name.len() < NAME_BYTES);
        room.ok_or(Errno::NAMETOOLONG)?
            .copy_from_slice(name.as_bytes());
        let file = File::options()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which is what `Request` is, and keeps no pointer to it.
        unsafe { ioctl(&file, Updater::<TUNSETIFF, Request>::new(&mut request)) }?;
        rustix::io::ioctl_fionbio(&file, true)?;
        Ok(Self(file))
    }
}

impl Port for Tap {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn recv(&self, buffer: &mut [u8]) -> Got {
        match (&self.0).read(buffer) {
            Ok(bytes) => Got::Frame(bytes),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Got::Nothing,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Got::Nothing,
            // Its namespace is gone, and the device with it.
            Err(_) => Got::Closed,
        }
    }

    fn send(&self, frame: &[u8]) {
        // An interface that is down takes nothing, as a machine that is off.
        let _off = (&self.0).write(frame);
    }
}
