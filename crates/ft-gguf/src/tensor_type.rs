//! Types that tensors are read in, and what their bytes stand for, as ggml's `dequantize_row_*` says: products in f32, in that order.

use half::{bf16, f16};

/// How a tensor is stored: `numbers` of a row share `bytes`.
#[derive(Debug)]
pub struct TensorType {
    number: u32,
    /// As llama.cpp spells it.
    pub name: &'static str,
    /// Numbers in a block.
    pub numbers: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// One block.
    decode: fn(&[u8], &mut [f32]),
}

const TYPES: [TensorType; 14] = [
    kind(0, "f32", 1, 4, |b, x| {
        x[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }),
    kind(1, "f16", 1, 2, |b, x| x[0] = half(b, 0)),
    kind(30, "bf16", 1, 2, |b, x| {
        x[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()
    }),
    kind(2, "q4_0", 32, 18, q4_0),
    kind(3, "q4_1", 32, 20, q4_1),
    kind(6, "q5_0", 32, 22, q5_0),
    kind(7, "q5_1", 32, 24, q5_1),
    kind(8, "q8_0", 32, 34, q8_0),
    kind(10, "q2_K", 256, 84, q2_k),
    kind(11, "q3_K", 256, 110, q3_k),
    kind(12, "q4_K", 256, 144, q4_k),
    kind(13, "q5_K", 256, 176, q5_k),
    kind(14, "q6_K", 256, 210, q6_k),
    kind(28, "f64", 1, 8, |b, x| {
        x[0] = f64::from_le_bytes(std::array::from_fn(|i| b[i])) as f32;
    }),
];

/// Names of the types that are known and not read.
const UNREAD: [(u32, &str); 16] = [
    (9, "q8_1"),
    (15, "q8_K"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (20, "iq4_nl"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (23, "iq4_xs"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (39, "mxfp4"),
];

const fn kind(
    number: u32,
    name: &'static str,
    numbers: usize,
    bytes: usize,
    decode: fn(&[u8], &mut [f32]),
) -> TensorType {
    TensorType {
        number,
        name,
        numbers,
        bytes,
        decode,
    }
}

impl TensorType {
    /// The type with this number in the file; the error says what it is instead.
    pub(crate) fn of(number: u32) -> Result<&'static TensorType, String> {
        static READ: [TensorType; TYPES.len()] = TYPES;
        READ.iter().find(|kind| kind.number == number).ok_or_else(|| {
            let unread = UNREAD.iter().find(|(known, _)| *known == number);
            let name = unread.map_or(format!("number {number}"), |(_, name)| name.to_string());
            let read: Vec<&str> = READ.iter().map(|kind| kind.name).collect();
            format!(
                "type {name} is not read; {} are: take a file in one of them, or make one with llama-quantize",
                read.join(", ")
            )
        })
    }

    /// Whether numbers are stored as they are, without a scale.
    pub fn is_float(&self) -> bool {
        self.numbers == 1
    }

    /// Bytes of so many numbers, which are whole blocks; `None` where that is no number.
    pub fn bytes_of(&self, numbers: usize) -> Option<usize> {
        match numbers.is_multiple_of(self.numbers) {
            true => (numbers / self.numbers).checked_mul(self.bytes),
            false => None,
        }
    }

    /// The numbers that whole blocks stand for.
    pub fn decode(&self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.bytes);
        for (block, values) in blocks.zip(out.chunks_exact_mut(self.numbers)) {
            (self.decode)(block, values);
        }
    }
}

/// The f16 at byte `at`.
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Code j in the lower half of byte j, code j + 16 in the upper.
fn nibble(codes: &[u8], i: usize) -> u8 {
    match i < 16 {
        true => codes[i] & 15,
        false => codes[i - 16] >> 4,
    }
}

fn q4_0(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    for (i, x) in out.iter_mut().enumerate() {
        *x = f32::from(nibble(&b[2..], i) as i8 - 8) * d;
    }
}

fn q4_1(b: &[u8], out: &mut [f32]) {
    let (d, least) = (half(b, 0), half(b, 2));
    for (i, x) in out.iter_mut().enumerate() {
        *x = f32::from(nibble(&b[4..], i)) * d + least;
    }
}

/// The code with its fifth bit, from `high`.
fn five_bits(high: &[u8], codes: &[u8], i: usize) -> u8 {
    nibble(codes, i) | (high[i / 8] >> (i % 8) & 1) << 4
}

fn q5_0(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    for (i, x) in out.iter_mut().enumerate() {
        *x = f32::from(five_bits(&b[2..], &b[6..], i) as i8 - 16) * d;
    }
}

fn q5_1(b: &[u8], out: &mut [f32]) {
    let (d, least) = (half(b, 0), half(b, 2));
    for (i, x) in out.iter_mut().enumerate() {
        *x = f32::from(five_bits(&b[4..], &b[8..], i)) * d + least;
    }
}

fn q8_0(b: &[u8], out: &mut [f32]) {
    let d = half(b, 0);
    for (x, code) in out.iter_mut().zip(&b[2..]) {
        *x = f32::from(*code as i8) * d;
    }
}

/// Sixteen parts of 16: scale and minimum in 4 bits each, codes in 2, four of them in a byte 32 numbers apart.
fn q2_k(b: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half(b, 80), half(b, 82));
    for (j, part) in out.chunks_exact_mut(16).enumerate() {
        let (scale, least) = (d * f32::from(scales[j] & 15), dmin * f32::from(scales[j] >> 4));
        let (start, shift) = (j / 8 * 32 + j % 2 * 16, j % 8 / 2 * 2);
        for (x, code) in part.iter_mut().zip(&codes[start..]) {
            *x = scale * f32::from(code >> shift & 3) - least;
        }
    }
}

/// Sixteen parts of 16 with scales of 6 bits; the third bit of each code says that 4 is not taken from it.
fn q3_k(b: &[u8], out: &mut [f32]) {
    let (high, codes, scales) = (&b[..32], &b[32..96], &b[96..108]);
    let d = half(b, 108);
    for (j, part) in out.chunks_exact_mut(16).enumerate() {
        let low = if j < 8 { scales[j] & 15 } else { scales[j - 8] >> 4 };
        let scale = low | (scales[8 + j % 4] >> (2 * (j / 4)) & 3) << 4;
        let scale = d * f32::from(scale as i8 - 32);
        let (within, bit) = (j % 2 * 16, j / 2);
        let (start, shift) = (j / 8 * 32 + within, j % 8 / 2 * 2);
        for (l, x) in part.iter_mut().enumerate() {
            let code = (codes[start + l] >> shift & 3) as i8;
            let less = if high[within + l] >> bit & 1 == 1 { 0 } else { 4 };
            *x = scale * f32::from(code - less);
        }
    }
}

/// Scale and minimum of part `j` of eight, 6 bits each in twelve bytes.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, least) = match j < 4 {
        true => (packed[j] & 63, packed[j + 4] & 63),
        false => (
            packed[j + 4] & 15 | packed[j - 4] >> 6 << 4,
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(least))
}

fn q4_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    for (j, part) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_minimum(&b[4..16], j);
        let (scale, least) = (d * scale, dmin * least);
        for (x, byte) in part.iter_mut().zip(&b[16 + j / 2 * 32..]) {
            let code = if j % 2 == 0 { byte & 15 } else { byte >> 4 };
            *x = scale * f32::from(code) - least;
        }
    }
}

fn q5_k(b: &[u8], out: &mut [f32]) {
    let (d, dmin) = (half(b, 0), half(b, 2));
    let high = &b[16..48];
    for (j, part) in out.chunks_exact_mut(32).enumerate() {
        let (scale, least) = scale_and_minimum(&b[4..16], j);
        let (scale, least) = (d * scale, dmin * least);
        let codes = &b[48 + j / 2 * 32..];
        for (l, x) in part.iter_mut().enumerate() {
            let code = if j % 2 == 0 { codes[l] & 15 } else { codes[l] >> 4 };
            *x = scale * f32::from(code | (high[l] >> j & 1) << 4) - least;
        }
    }
}

/// Sixteen parts of 16 with scales of 8 bits.
fn q6_k(b: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = half(b, 208);
    for (i, x) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let byte = low[half * 64 + quarter % 2 * 32 + l];
        let code = if quarter < 2 { byte & 15 } else { byte >> 4 };
        let code = code | (high[half * 32 + l] >> (2 * quarter) & 3) << 4;
        *x = d * f32::from(scales[i / 16] as i8) * f32::from(code as i8 - 32);
    }
}
