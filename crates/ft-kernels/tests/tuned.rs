//! What is chosen in a process lies in the folder that was named, on the first Vulkan device of the machine.
use burn::tensor::{Device, DeviceType, Tensor};

#[test]
fn chosen_kernels_are_kept_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    ft_kernels::keep_tuned(folder.path());
    let devices = Device::enumerate(DeviceType::Vulkan).into_vec();
    let device = devices.into_iter().next();
    let device = device.expect("a Vulkan device; Mesa's lavapipe is one in software");
    let x = Tensor::<2>::ones([32, 32], &device);
    assert_eq!(x.clone().matmul(x).into_data().try_to_vec::<f32>().unwrap()[0], 32.0);

    let files = std::fs::read_dir(folder.path()).unwrap();
    let kept: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    let autotune = |bytes: &Vec<u8>| bytes.windows(9).any(|part| part == b"autotune/");
    assert!(kept.iter().any(autotune), "{} files", kept.len());
}
