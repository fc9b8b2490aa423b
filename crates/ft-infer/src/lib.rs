//! Text generation: KV cache, sampling, batches of prompts, stop tokens, streaming.
