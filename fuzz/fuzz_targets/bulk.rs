//! Bytes from outside for the reader of `bulk`; what must hold is in `tests::oracles`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _accepted = tests::oracles::bulk(bytes);
});
