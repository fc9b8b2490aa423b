//! What a forward pass over a packed weight leaves behind, counted by the allocator. A binary of its own: the count is global.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{Device, FloatDType, Tensor};
use ft_kernels::Output;
use ft_quant::{Encoded, Kind, Layout, Packed, Scheme, Weight};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        LIVE.fetch_add(block.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, block: Block) {
        LIVE.fetch_sub(block.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_dense_copy_of_a_layer_survives_the_forward_pass() {
    const SIZE: usize = 1024;
    const LAYERS: usize = 6;
    let device = Device::flex().autodiff();
    let values: Vec<f32> = (0..SIZE * SIZE).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    for scheme in [Scheme::new(Kind::Nf4).doubled(), Scheme::new(Kind::Int8)] {
        let encoded = Encoded::encode(&values, [SIZE, SIZE], scheme).unwrap();
        let layer = || {
            Weight::packed(
                Packed::new(&encoded, Layout::OutIn, FloatDType::F32, &device),
                Layout::OutIn,
            )
        };
        let layers: Vec<Weight> = (0..LAYERS).map(|_| layer()).collect();
        let x = Tensor::<2>::ones([16, SIZE], &device).require_grad();
        // Work memory that is kept for the next call is there after the first.
        layers[0].project(x.clone()).sum().backward();

        let adapter = |dims: [usize; 2]| Tensor::<2>::ones(dims, &device).require_grad();
        let (a, b) = (adapter([4, SIZE]), adapter([SIZE, 4]));
        for dropout in [None, Some((0.0, 0)), Some((0.1, 7))] {
            let forward = |layer: &Weight, x: Tensor<2>| match dropout {
                None => layer.project(x),
                some => layer.lora(x, a.clone(), b.clone(), 0.5, some, Output::Read),
            };
            let before = LIVE.load(Ordering::SeqCst);
            let y = layers.iter().fold(x.clone(), |x, layer| forward(layer, x));
            let grown = LIVE.load(Ordering::SeqCst).saturating_sub(before);
            // A dense copy of one layer has 4 MiB; the tape of all of them holds activations of 64 KiB, and work memory of a
            // panel for each thread.
            assert!(
                grown < SIZE * SIZE * 4 / 2,
                "{scheme:?}, {dropout:?}: {grown} bytes outlive the forward pass"
            );
            let gradients = y.sum().backward();
            assert_eq!(x.grad(&gradients).unwrap().dims(), [16, SIZE]);
            assert_eq!(a.grad(&gradients).is_some(), dropout.is_some());
        }
    }
}
