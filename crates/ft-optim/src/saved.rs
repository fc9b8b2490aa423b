//! What is written to a file, read back from its device tensor by tensor.

use burn::tensor::{DType, TensorData};

/// A named tensor that is read back when it is asked for: a file of many is written with a copy of one at a time.
///
/// Holds its value: while it is there, nothing that shares the value is written in place.
pub struct SavedTensor<'a> {
    /// Its name in the file.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: DType,
    read: Box<dyn Fn() -> TensorData + 'a>,
}

impl<'a> SavedTensor<'a> {
    pub(crate) fn new(name: String, (shape, dtype): (Vec<usize>, DType), read: impl Fn() -> TensorData + 'a) -> Self {
        Self {
            name,
            shape,
            dtype,
            read: Box::new(read),
        }
    }

    /// The values. Waits for the device.
    pub fn read(&self) -> TensorData {
        (self.read)()
    }

    pub(crate) fn into_pair(self) -> (String, TensorData) {
        let data = self.read();
        (self.name, data)
    }
}
