//! Checks what stored keys and values come back as.

use super::*;
use crate::Isa;
use crate::testing::{bits, values};

/// What a stored row comes back as, by the definition of the type.
fn rounded(ty: KvType, row: &[f32]) -> Vec<f32> {
    match ty {
        KvType::F32 => row.to_vec(),
        KvType::F16 => row
            .iter()
            .map(|x| half::f16::from_f32_const(*x).to_f32_const())
            .collect(),
        KvType::Q8 => row
            .chunks(32)
            .flat_map(|block| {
                let most = block.iter().fold(0f32, |most, x| most.max(x.abs()));
                let scale = most / 127.0;
                // An integer has no negative zero.
                let one = move |x: &f32| scale * ((x / scale).round_ties_even() + 0.0);
                block.iter().map(one).collect::<Vec<f32>>()
            })
            .collect(),
    }
}

#[test]
fn rows_come_back_as_written_or_rounded() -> Result<(), KernelError> {
    for (ty, dim) in [(KvType::F32, 40), (KvType::F16, 40), (KvType::Q8, 96)] {
        let mut store = KvStore::new(ty, 3, 2, dim)?;
        let pages = [2, 0];
        let written = |position: u32| {
            let k = values(2 * dim, u64::from(position));
            (k, values(2 * dim, u64::from(position) + 1000))
        };
        for position in [0u32, 63, 64, 127] {
            let (k, v) = written(position);
            store.write(&pages, position, &k, &v);
        }
        for position in [0u32, 63, 64, 127] {
            let (k, v) = written(position);
            let page = pages[position as usize / 64];
            // Columns from 32 on, into rows that are longer.
            let part = Part {
                dim,
                row: position as usize % 64,
                rows: 1,
                col: 32,
                cols: dim - 32,
            };
            for isa in Isa::usable() {
                let mut out = vec![7.0; dim];
                for (block, row) in [(store.keys(page, 1), &k), (store.values(page, 1), &v)] {
                    block.widen(isa, &part, &mut out, dim);
                    let want = rounded(ty, &row[dim..]);
                    assert_eq!(bits(&out[..dim - 32]), bits(&want[32..]), "{ty:?} {isa}");
                    assert_eq!(bits(&out[dim - 32..]), bits(&[7.0; 32]), "{ty:?} {isa}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn stores_are_as_large_as_said() -> Result<(), KernelError> {
    for (ty, bytes) in [
        (KvType::F32, 4 * 64),
        (KvType::F16, 2 * 64),
        (KvType::Q8, 72),
    ] {
        let store = KvStore::new(ty, 3, 2, 64)?;
        assert_eq!(store.bytes(), 3 * 2 * 64 * 2 * bytes);
        let held = |plane: &Plane| match plane {
            Plane::F32(all) => size_of_val(all.as_slice()),
            Plane::F16(all) => size_of_val(all.as_slice()),
            Plane::Q8(all, scales) => size_of_val(all.as_slice()) + size_of_val(scales.as_slice()),
        };
        assert_eq!(held(&store.keys) + held(&store.values), store.bytes());
    }
    Ok(())
}

#[test]
fn q8_refuses_heads_of_broken_blocks() {
    let error = KvStore::new(KvType::Q8, 3, 2, 80).unwrap_err().to_string();
    assert!(
        error.contains("80") && error.contains("32") && error.contains("f16"),
        "{error}"
    );
    assert!(KvStore::new(KvType::F16, 3, 2, 80).is_ok());
}

#[test]
fn quantising_ends_well_on_every_set() {
    let mut rows = vec![0.0; 32];
    rows.extend([1e-45; 32]);
    rows.extend([f32::MAX; 32]);
    rows.extend((0..32).map(|i| i as f32 - 127.0));
    // Halves between two stored values go to the even one.
    rows.extend((0..32).map(|i| if i == 0 { 127.0 } else { i as f32 - 16.5 }));
    let nan = (0..32).map(|i| if i == 3 { f32::NAN } else { 2.0 });
    rows.extend(nan);
    rows.extend(values(320, 8).iter().map(|x| x * 1e-3));
    let blocks = rows.len() / 32;
    let mut first: Option<(Vec<i8>, Vec<u32>)> = None;
    for isa in Isa::usable() {
        let (mut out, mut scales) = (vec![1i8; rows.len()], vec![1.0; blocks]);
        q8::quantise_on(isa, &rows, &mut out, &mut scales);
        assert!(out[..64].iter().all(|q| *q == 0));
        assert!(out[64..96].iter().all(|q| *q == 127));
        assert!(
            out[96..128]
                .iter()
                .zip(-127i8..)
                .all(|(q, want)| *q == want)
        );
        assert_eq!(out[128..132], [127, -16, -14, -14]);
        assert_eq!(out[160..165], [127, 127, 127, 0, 127]);
        let got = (out, bits(&scales));
        assert_eq!(first.get_or_insert(got.clone()), &got, "{isa}");
    }
}

#[test]
fn half_conversion_is_the_same_in_hardware_and_software() {
    let every: Vec<u16> = (0..=u16::MAX).collect();
    let part = Part {
        dim: every.len(),
        row: 0,
        rows: 1,
        col: 0,
        cols: every.len(),
    };
    for isa in Isa::usable() {
        let mut wide = vec![0.0; every.len()];
        Block::F16(&every).widen(isa, &part, &mut wide, every.len());
        for (stored, wide) in every.iter().zip(&wide) {
            let soft = half::f16::from_bits(*stored).to_f32_const();
            assert!(
                soft.to_bits() == wide.to_bits() || (soft.is_nan() && wide.is_nan()),
                "{isa} {stored:#x}"
            );
        }
    }
    let odd: Vec<f32> = values(4096, 9)
        .iter()
        .map(|x| x * 1e-6 * 40f32.powf(x * 3.0))
        .collect();
    let mut rounded = vec![0u16; odd.len()];
    rounded
        .reinterpret_cast_mut::<half::f16>()
        .convert_from_f32_slice(&odd);
    for (x, got) in odd.iter().zip(&rounded) {
        assert_eq!(*got, half::f16::from_f32_const(*x).to_bits(), "{x}");
    }
}

#[test]
fn a_store_beyond_the_address_space_is_refused() {
    let error = KvStore::new(KvType::F32, u32::MAX, usize::MAX / 8, 64).unwrap_err();
    assert_eq!(
        error,
        KernelError::TooLarge {
            what: "key/value cache"
        }
    );
}
