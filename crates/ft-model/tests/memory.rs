//! How much host memory quantizing on load takes, counted by the allocator. A binary of its own: the count is global.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use ft_model::{LoadDtype, Model, ModelConfig};
use ft_peft::{Adaptable, ModuleSlot};
use ft_quant::{Kind, Scheme};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        let live = LIVE.fetch_add(block.size(), Ordering::Relaxed) + block.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
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

const LLAMA: &str = r#"{"model_type": "llama", "vocab_size": 64, "hidden_size": 256, "intermediate_size": 1024,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": true}"#;
const GPT2: &str =
    r#"{"model_type": "gpt2", "vocab_size": 64, "n_positions": 64, "n_embd": 256, "n_layer": 4, "n_head": 4}"#;

/// Numbers of the projections, and bytes they are held in.
fn packed(model: &mut Model) -> (usize, usize) {
    let (mut numbers, mut bytes) = (0, 0);
    for module in model.target_modules() {
        if let ModuleSlot::Projection(slot) = &module.slot
            && let Some(packed) = slot.weight.as_packed()
        {
            let [rows, cols] = packed.dims();
            numbers += rows * cols;
            bytes += packed.bytes();
        }
    }
    (numbers, bytes)
}

#[test]
fn loading_takes_one_tensor_over_the_packed_model() {
    let device = Device::flex();
    for (config, layers_of_projections) in [(LLAMA, 786_432 + 2 * 65_536 + 2 * 32_768), (GPT2, 12 * 65_536)] {
        let config = ModelConfig::from_json(config, "config.json".as_ref()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        Model::init(&config, 0, &device)
            .save(folder.path(), LoadDtype::Bf16)
            .unwrap();
        for scheme in [Scheme::new(Kind::Nf4).doubled(), Scheme::new(Kind::Int8)] {
            let load = || Model::load_quantized(folder.path(), LoadDtype::F32, Some(scheme), &device).unwrap();
            // Thread pools and tables are there after the first time.
            drop(load());
            let before = LIVE.load(Ordering::SeqCst);
            PEAK.store(before, Ordering::SeqCst);
            let mut model = load();
            let (held, peak) = (
                LIVE.load(Ordering::SeqCst) - before,
                PEAK.load(Ordering::SeqCst) - before,
            );

            let (numbers, bytes) = packed(&mut model);
            assert_eq!(numbers, 4 * layers_of_projections);
            if scheme.double {
                let bits = 8.0 * bytes as f64 / numbers as f64;
                assert!((bits - 4.127).abs() < 2e-3, "{bits} bits per weight");
            }
            // The largest matrix, 1024 x 256, in f32, and its codes before they are moved to the device.
            let tensor = 4 * 1024 * 256;
            let codes = scheme.bytes([1024, 256]);
            let above = peak - held;
            assert!(
                above <= tensor + 2 * codes,
                "{scheme}: {above} bytes above the {held} that stay"
            );
            // Embeddings, norms and biases take less than this; a dense model would take 4 bytes per number.
            assert!(
                held < bytes + (1 << 19),
                "{scheme}: {held} bytes held, {bytes} of them packed"
            );
        }
    }
}
