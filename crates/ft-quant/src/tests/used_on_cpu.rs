//! 4-bit layers that bitsandbytes 0.50 saves after they computed on a CPU with AVX-512.

use super::*;

#[test]
fn scales_saved_after_use_on_a_cpu_are_read() {
    let encoded = Encoded::encode(&values(256), [2, 128], Scheme::new(Kind::Nf4)).unwrap();
    let Scales::Plain(scales) = &encoded.scales else {
        unreachable!("one level of scales")
    };
    // [out, in / 64] turned, in the upper half of each f32.
    let turned = [scales[0], scales[2], scales[1], scales[3]];
    let halves = turned.iter().flat_map(|scale| scale.to_le_bytes()[2..].to_vec());
    let mut tensors = bnb::write("x", &encoded, FloatDType::F32);
    let at = tensors.iter().position(|t| t.name == "x.weight.absmax").unwrap();
    tensors[at] = bnb::Stored {
        name: "x.weight.absmax".into(),
        dtype: bnb::Type::BF16,
        shape: vec![2, 2],
        bytes: halves.collect(),
    };
    let found = read(&tensors, "x", [2, 128]).unwrap().unwrap().encoded;
    let cut: Vec<f32> = scales
        .iter()
        .map(|scale| f32::from_bits(scale.to_bits() & 0xffff_0000))
        .collect();
    assert_eq!((found.codes, found.scales), (encoded.codes.clone(), Scales::Plain(cut)));

    let weight = tensors.iter().position(|t| t.name == "x.weight").unwrap();
    let mut packed = tensors.clone();
    packed[weight].shape = vec![2, 64];
    let error = read(&packed, "x", [2, 128]).unwrap_err().to_string();
    assert!(error.contains("x.weight: its codes are in the order of"), "{error}");

    tensors[at].shape = vec![4];
    let error = read(&tensors, "x", [2, 128]).unwrap_err().to_string();
    assert!(
        error.contains("x.weight.absmax: [4] of type BF16, where [2, 2]"),
        "{error}"
    );
}
