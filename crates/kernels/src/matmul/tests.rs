//! Checks the tiles of every instruction set against the scalar definition, the definition against exact
//! sums, and both against what the rest of a batch or the cutting of the work could change.

use super::*;
use crate::dequant::dequantize_row;
use crate::{ActFormat, KernelError, Pool, swiglu};
use proptest::prelude::*;

/// A small generator with a fixed answer for a seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// Between -4 and 4, in steps fine enough to use all mantissa bits.
    fn float(&mut self) -> f32 {
        let bits = u16::from_le_bytes([self.byte(), self.byte()]);
        (f32::from(bits) - 32768.0) / 8192.0 + f32::from(self.byte()) * 1e-6
    }

    /// A finite half float of modest size.
    fn half(&mut self) -> [u8; 2] {
        let bits = (u16::from(self.byte()) << 8 | u16::from(self.byte())) & 0xbfff;
        (if bits & 0x7c00 > 0x3c00 {
            bits & 0x83ff
        } else {
            bits
        })
        .to_le_bytes()
    }

    fn weights(&mut self, ty: WeightType, rows: usize, cols: usize) -> Vec<u8> {
        let len = rows * ty.row_bytes(cols).unwrap();
        let mut bytes: Vec<u8> = (0..len).map(|_| self.byte()).collect();
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            match ty {
                WeightType::F32 => block.copy_from_slice(&self.float().to_le_bytes()),
                WeightType::BF16 => block.copy_from_slice(&self.float().to_le_bytes()[2..]),
                WeightType::F16 | WeightType::Q8_0 | WeightType::Q4_0 => {
                    block[..2].copy_from_slice(&self.half());
                }
                WeightType::Q4K | WeightType::Q5K => {
                    block[..2].copy_from_slice(&self.half());
                    block[2..4].copy_from_slice(&self.half());
                }
                WeightType::Q6K => block[208..].copy_from_slice(&self.half()),
            }
        }
        bytes
    }

    fn acts(&mut self, ty: WeightType, rows: usize, cols: usize) -> Acts {
        let x: Vec<f32> = (0..rows * cols).map(|_| self.float()).collect();
        let mut acts = Acts::new();
        acts.quantize(Isa::Scalar, ty.act_format(), &x, cols);
        acts
    }
}

fn product(isa: Isa, w: Matrix<'_>, acts: &Acts, act_rows: Rows<'_>, segments: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; act_rows.len() * w.rows];
    matmul(
        isa,
        &mut MatmulTask {
            w,
            acts,
            act_rows,
            segments,
            out: &mut out,
        },
    );
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The floats that an activation row stands for.
fn act_values(acts: &Acts, row: usize) -> Vec<f64> {
    let f32_of = |b: &[u8]| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let bytes = acts.row_bytes(row);
    match acts.format() {
        ActFormat::F32 => bytes.chunks_exact(4).map(f32_of).collect(),
        format => bytes
            .chunks_exact(format.block_bytes())
            .flat_map(|block| {
                let d = f32_of(block);
                block[4..4 + format.block_len()]
                    .iter()
                    .map(move |q| d * f64::from(q.cast_signed()))
            })
            .collect(),
    }
}

/// Stored bytes whose values are the scaled part of the weights (`keep` 0) or their mins (`keep` 1).
fn with_one_delta(ty: WeightType, bytes: &[u8], keep: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if matches!(ty, WeightType::Q4K | WeightType::Q5K) {
        for block in bytes.chunks_exact_mut(ty.block_bytes()) {
            block[2 - 2 * keep..4 - 2 * keep].fill(0);
        }
    }
    bytes
}

/// Bound: each of the steps, at most two for a block and a few for the trees, may round the sum of magnitudes of
/// all products by 2^-23, scaled parts and mins counted apart.
#[test]
fn dots_are_close_to_exact_sums() {
    let mut noise = Noise(1);
    for ty in WeightType::ALL {
        for segments in [1, 8] {
            let cols = 8 * 256;
            let bytes = noise.weights(ty, 6, cols);
            let w = Matrix::new(ty, 6, cols, &bytes).unwrap();
            let acts = noise.acts(ty, 3, cols);
            let got = product(Isa::Scalar, w, &acts, Rows::Range(0..3), segments);
            for j in 0..6 {
                let mut row = vec![0f32; cols];
                dequantize_row(ty, w.row(j), &mut row);
                let mut parts = [vec![0f32; cols], vec![0f32; cols]];
                for (keep, part) in parts.iter_mut().enumerate() {
                    dequantize_row(ty, &with_one_delta(ty, w.row(j), keep), part);
                }
                for r in 0..3 {
                    let a = act_values(&acts, r);
                    let exact: f64 = row.iter().zip(&a).map(|(w, a)| f64::from(*w) * a).sum();
                    let magnitude: f64 = (0..cols)
                        .map(|k| f64::from(parts[0][k].abs() + parts[1][k].abs()) * a[k].abs())
                        .sum();
                    let steps = match ty.block_len() {
                        1 => cols as f64 / 32.0 + 8.0,
                        len => 2.0 * cols as f64 / len as f64 + 8.0,
                    };
                    let error = (f64::from(got[r * 6 + j]) - exact).abs();
                    let bound = steps * magnitude * 2f64.powi(-23);
                    assert!(error <= bound, "{ty} {segments}: {error} > {bound}");
                    assert!(exact != 0.0 && magnitude.is_finite());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_isa_gives_the_scalar_bits(
        seed in any::<u64>(),
        ty in prop::sample::select(&WeightType::ALL[..]),
        rows in 1usize..14,
        blocks in 1usize..9,
        tail in 0usize..32,
        act_rows in 1usize..20,
    ) {
        let mut noise = Noise(seed);
        let cols = if ty.block_len() == 1 { blocks * 32 - tail } else { blocks * ty.block_len() };
        let bytes = noise.weights(ty, rows, cols);
        let w = Matrix::new(ty, rows, cols, &bytes).unwrap();
        let acts = noise.acts(ty, 6, cols);
        let list: Vec<u32> = (0..act_rows).map(|_| u32::try_from(noise.below(6)).unwrap()).collect();
        for segments in [1, segments_for(ty, cols)] {
            let expected = product(Isa::Scalar, w, &acts, Rows::List(&list), segments);
            for isa in Isa::usable() {
                let got = product(isa, w, &acts, Rows::List(&list), segments);
                prop_assert_eq!(bits(&got), bits(&expected), "{} {}", isa, ty);
            }
        }
    }

    #[test]
    fn neither_batch_nor_cutting_changes_a_bit(
        seed in any::<u64>(),
        ty in prop::sample::select(&WeightType::ALL[..]),
        rows in 1usize..40,
        cut in 0usize..40,
        act_rows in 1usize..12,
    ) {
        let mut noise = Noise(seed);
        let cols = 512;
        let bytes = noise.weights(ty, rows, cols);
        let w = Matrix::new(ty, rows, cols, &bytes).unwrap();
        let acts = noise.acts(ty, act_rows, cols);
        let segments = segments_for(ty, cols);
        let cut = cut.min(rows);
        for isa in Isa::usable() {
            let whole = product(isa, w, &acts, Rows::Range(0..act_rows), segments);
            for r in 0..act_rows {
                let alone = product(isa, w, &acts, Rows::Range(r..r + 1), segments);
                prop_assert_eq!(bits(&alone), bits(&whole[r * rows..(r + 1) * rows]));
            }
            let upper = product(isa, w.slice_rows(0..cut), &acts, Rows::Range(0..act_rows), segments);
            let lower = product(isa, w.slice_rows(cut..rows), &acts, Rows::Range(0..act_rows), segments);
            for r in 0..act_rows {
                prop_assert_eq!(bits(&upper[r * cut..(r + 1) * cut]), bits(&whole[r * rows..r * rows + cut]));
                let rest = rows - cut;
                prop_assert_eq!(
                    bits(&lower[r * rest..(r + 1) * rest]),
                    bits(&whole[r * rows + cut..(r + 1) * rows])
                );
            }
        }
    }
}

#[test]
fn one_parallel_region_equals_products_one_by_one() {
    let mut noise = Noise(7);
    // Enough bytes for several chunks of each product.
    let shapes = [
        (WeightType::Q4K, 300, 2048, 3),
        (WeightType::Q6K, 70, 1024, 1),
        (WeightType::F32, 33, 2000, 70),
        (WeightType::Q8_0, 1, 64, 9),
        (WeightType::BF16, 200, 512, 1),
    ];
    let stored: Vec<Vec<u8>> = shapes
        .iter()
        .map(|(ty, rows, cols, _)| noise.weights(*ty, *rows, *cols))
        .collect();
    let acts: Vec<Acts> = shapes
        .iter()
        .map(|(ty, _, cols, n)| noise.acts(*ty, *n, *cols))
        .collect();
    let matrices: Vec<Matrix<'_>> = shapes
        .iter()
        .zip(&stored)
        .map(|((ty, rows, cols, _), bytes)| Matrix::new(*ty, *rows, *cols, bytes).unwrap())
        .collect();
    for isa in Isa::usable() {
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            let mut outs: Vec<Vec<f32>> = shapes
                .iter()
                .map(|(_, rows, _, n)| vec![f32::NAN; rows * n])
                .collect();
            let mut tasks: Vec<MatmulTask<'_>> = outs
                .iter_mut()
                .enumerate()
                .map(|(i, out)| MatmulTask {
                    w: matrices[i],
                    acts: &acts[i],
                    act_rows: Rows::Range(0..shapes[i].3),
                    segments: segments_for(shapes[i].0, shapes[i].2),
                    out,
                })
                .collect();
            parallel_matmul(&pool, isa, &mut tasks);
            for (i, out) in outs.iter().enumerate() {
                let segments = segments_for(shapes[i].0, shapes[i].2);
                let rows = Rows::Range(0..shapes[i].3);
                let expected = product(Isa::Scalar, matrices[i], &acts[i], rows, segments);
                assert_eq!(bits(out), bits(&expected), "{isa} {:?}", shapes[i]);
            }
        }
    }
}

#[test]
fn gated_pairs_equal_products_and_swiglu() {
    let mut noise = Noise(11);
    // Several pieces each, the last one cut; formats that differ, and rows picked from a list.
    let shapes = [
        (WeightType::Q4K, WeightType::Q4K, 333, 1024, 5),
        (WeightType::Q6K, WeightType::Q8_0, 40, 512, 1),
        (WeightType::F32, WeightType::BF16, 17, 100, 3),
    ];
    for isa in Isa::usable() {
        for (gate_ty, up_ty, rows, cols, n) in shapes {
            let stored = [gate_ty, up_ty].map(|ty| noise.weights(ty, rows, cols));
            let [gate, up] = [(gate_ty, &stored[0]), (up_ty, &stored[1])]
                .map(|(ty, bytes)| Matrix::new(ty, rows, cols, bytes).unwrap());
            let x: Vec<f32> = (0..4 * cols).map(|_| noise.float()).collect();
            let acts = [gate_ty, up_ty].map(|ty| {
                let mut acts = Acts::new();
                acts.quantize(isa, ty.act_format(), &x, cols);
                acts
            });
            let list: Vec<u32> = (0..n).map(|i| 3 - i % 4).collect();
            let of_list = || Rows::List(&list);
            let gates = product(Isa::Scalar, gate, &acts[0], of_list(), 1);
            let ups = product(Isa::Scalar, up, &acts[1], of_list(), 1);
            let mut expected = vec![0.0; gates.len()];
            swiglu(Isa::Scalar, &gates, &ups, &mut expected);
            let mut out = vec![f32::NAN; gates.len()];
            let task = GatedTask {
                gate,
                up,
                acts: [&acts[0], &acts[1]],
                act_rows: of_list(),
                out: &mut out,
            };
            parallel_gated(&Pool::new(2), isa, &mut [task]);
            assert_eq!(bits(&out), bits(&expected), "{isa} {gate_ty}");
        }
    }
}

/// Every quant and every scale at an end of its range, against sums in i64: no lane may saturate or wrap.
#[test]
fn extreme_values_stay_exact() {
    for ty in WeightType::ALL.into_iter().filter(|ty| ty.block_len() > 1) {
        let len = ty.block_len();
        for fill in [0x00u8, 0x7f, 0x80, 0x81, 0xff, 0x0f, 0xf0] {
            for pattern in 0..4 {
                let mut block = vec![fill; ty.block_bytes()];
                let one = 0x3c00u16.to_le_bytes();
                match ty {
                    WeightType::Q6K => block[208..].copy_from_slice(&one),
                    WeightType::Q4K | WeightType::Q5K => {
                        block[..4].copy_from_slice(&[one[0], one[1], 0, 0]);
                    }
                    _ => block[..2].copy_from_slice(&one),
                }
                let x: Vec<f32> = (0..len)
                    .map(|k| match pattern {
                        0 => 127.0,
                        1 => -127.0,
                        2 if k % 2 == 0 => 127.0,
                        3 if k % 32 < 16 => 127.0,
                        _ => -127.0,
                    })
                    .collect();
                let mut acts = Acts::new();
                acts.quantize(Isa::Scalar, ty.act_format(), &x, len);
                let mut values = vec![0f32; len];
                dequantize_row(ty, &block, &mut values);
                // The scale is one, so that the values are integers.
                let exact: f64 = values
                    .iter()
                    .zip(&x)
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
                    .sum();
                #[allow(
                    clippy::cast_possible_truncation,
                    reason = "rounds an exact integer once, as the kernels do"
                )]
                let exact = exact as f32;
                // More rows than the widest tile, so that all tiles meet the values.
                let stored = block.repeat(5);
                let w = Matrix::new(ty, 5, len, &stored).unwrap();
                for isa in Isa::usable() {
                    for n in [1, 4, 8, 13] {
                        let got = product(isa, w, &acts, Rows::List(&vec![0; n]), 1);
                        assert!(
                            got.iter().all(|g| *g == exact),
                            "{isa} {ty} {fill:#x} {pattern}: {got:?} for {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn segments_are_added_as_a_binary_tree() {
    let mut noise = Noise(3);
    let (rows, cols, segments) = (5, 4 * 256, 4);
    for ty in WeightType::ALL {
        let stored: Vec<Vec<u8>> = (0..segments)
            .map(|_| noise.weights(ty, rows, cols / segments))
            .collect();
        let x: Vec<f32> = (0..cols).map(|_| noise.float()).collect();
        let part_bytes = ty.row_bytes(cols / segments).unwrap();
        let whole: Vec<u8> = (0..rows)
            .flat_map(|j| {
                stored
                    .iter()
                    .flat_map(move |s| s[j * part_bytes..(j + 1) * part_bytes].iter().copied())
            })
            .collect();
        for isa in Isa::usable() {
            let one_part = |s: usize| {
                let mut acts = Acts::new();
                let width = cols / segments;
                acts.quantize(isa, ty.act_format(), &x[s * width..(s + 1) * width], width);
                let w = Matrix::new(ty, rows, width, &stored[s]).unwrap();
                product(isa, w, &acts, Rows::Range(0..1), 1)
            };
            let parts: Vec<Vec<f32>> = (0..segments).map(one_part).collect();
            let mut acts = Acts::new();
            acts.quantize(isa, ty.act_format(), &x, cols);
            let w = Matrix::new(ty, rows, cols, &whole).unwrap();
            let got = product(isa, w, &acts, Rows::Range(0..1), segments);
            for j in 0..rows {
                let expected = (parts[0][j] + parts[1][j]) + (parts[2][j] + parts[3][j]);
                assert_eq!(got[j].to_bits(), expected.to_bits(), "{isa} {ty}");
            }
        }
    }
}

#[test]
fn segments_keep_whole_blocks() {
    let cases = [
        (WeightType::F32, 2048, 8),
        (WeightType::F32, 12, 4),
        (WeightType::BF16, 7, 1),
        (WeightType::Q8_0, 512, 8),
        (WeightType::Q8_0, 96, 1),
        (WeightType::Q4_0, 64, 2),
        (WeightType::Q4K, 2048, 8),
        (WeightType::Q4K, 512, 2),
        (WeightType::Q6K, 768, 1),
        (WeightType::Q5K, 1024, 4),
    ];
    for (ty, cols, expected) in cases {
        assert_eq!(segments_for(ty, cols), expected, "{ty} {cols}");
    }
}

#[test]
fn no_rows_and_no_weights_are_ordinary() {
    let acts = Noise(1).acts(WeightType::F32, 2, 4);
    let w = Matrix::new(WeightType::F32, 0, 4, &[]).unwrap();
    assert!(product(Isa::detect(), w, &acts, Rows::Range(0..2), 1).is_empty());
    let w = Matrix::new(WeightType::F32, 1, 4, &[0; 16]).unwrap();
    assert!(product(Isa::detect(), w, &acts, Rows::List(&[]), 1).is_empty());
    parallel_matmul(&Pool::new(1), Isa::detect(), &mut []);
}

#[test]
#[should_panic(expected = "activations for Q4_K")]
fn foreign_activations_panic() {
    let acts = Noise(1).acts(WeightType::F32, 1, 256);
    let w = Matrix::new(WeightType::Q4K, 1, 256, &[0; 144]).unwrap();
    product(Isa::Scalar, w, &acts, Rows::Range(0..1), 1);
}

#[test]
#[should_panic(expected = "activation rows")]
fn rows_that_are_not_there_panic() {
    let acts = Noise(1).acts(WeightType::F32, 1, 4);
    let w = Matrix::new(WeightType::F32, 1, 4, &[0; 16]).unwrap();
    product(Isa::Scalar, w, &acts, Rows::List(&[1]), 1);
}

#[test]
#[should_panic(expected = "segments")]
fn segments_that_split_blocks_panic() {
    let acts = Noise(1).acts(WeightType::Q8_0, 1, 64);
    let w = Matrix::new(WeightType::Q8_0, 1, 64, &[0; 68]).unwrap();
    product(Isa::Scalar, w, &acts, Rows::Range(0..1), 4);
}

#[test]
fn wire_activations_give_the_same_bits() {
    let mut noise = Noise(9);
    let bytes = noise.weights(WeightType::Q5K, 3, 512);
    let w = Matrix::new(WeightType::Q5K, 3, 512, &bytes).unwrap();
    let acts = noise.acts(WeightType::Q5K, 2, 512);
    let copy: Result<Acts, KernelError> = Acts::from_bytes(ActFormat::Q8K, 2, 512, acts.as_bytes());
    let expected = product(Isa::detect(), w, &acts, Rows::Range(0..2), 1);
    let got = product(Isa::detect(), w, &copy.unwrap(), Rows::Range(0..2), 1);
    assert_eq!(bits(&got), bits(&expected));
}
