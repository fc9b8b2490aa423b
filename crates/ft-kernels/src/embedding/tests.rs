use crate::embedding;
use crate::testing::{device, values};
use burn::tensor::{DType, Int, Tensor, TensorData};

#[test]
fn rows_and_the_sums_of_their_gradients() {
    let (device, ids) = (device(), [2i64, 0, 2, 4, 2]);
    let table = Tensor::<2>::from_data(TensorData::new(values(15, 1), [5, 3]), (&device, DType::F64)).require_grad();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(ids.to_vec(), [5]), &device);
    let rows = embedding(table.clone(), indices);
    let given = values(15, 2);
    let weights = Tensor::<2>::from_data(TensorData::new(given.clone(), [5, 3]), (&device, DType::F64));
    let gradients = (rows.clone() * weights).sum().backward();

    let numbers = |x: Tensor<2>| x.into_data().try_to_vec::<f64>().unwrap();
    let (from, got) = (values(15, 1), numbers(table.grad(&gradients).unwrap()));
    for (place, id) in ids.into_iter().enumerate() {
        let id = id as usize;
        assert_eq!(
            numbers(rows.clone())[3 * place..3 * place + 3],
            from[3 * id..3 * id + 3]
        );
    }
    for (i, got) in got.into_iter().enumerate() {
        let (row, c) = (i / 3, i % 3);
        let places = ids.iter().enumerate().filter(|(_, id)| **id as usize == row);
        let want = places.fold(0.0, |sum, (place, _)| sum + given[3 * place + c]);
        assert_eq!(got, want, "row {row}, column {c}");
    }
}
