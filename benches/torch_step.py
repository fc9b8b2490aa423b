"""One training step of a Llama of given dimensions with torch + PEFT: tokens per second and memory, as one JSON line.

    pip install -r benches/requirements.txt
    python benches/torch_step.py --method lora --batch 4 --seq 256 --threads 2

Random weights; labels are the input ids, so every position but the last is learned; AdamW; SDPA attention; no dropout. The methods take the
places and ranks that are ft's defaults, with adapters in f32. Shapes are those of benches/shapes.json, any dimension of which can be given
by itself; weights are drawn on the device. The counterpart is benches/step.rs.

    python benches/torch_step.py --device cuda --shape llama-3.2-3b --dtype bf16 --seq 1024     # LoRA
    python benches/torch_step.py --device cuda --shape llama-3.1-8b --dtype bf16 --seq 1024 --quant nf4+double   # needs bitsandbytes
    python benches/torch_step.py --device cuda --shape llama-3.2-1b --dtype bf16 --seq 1024 --method full --autocast --optim adamw_8bit
"""
import argparse
import contextlib
import importlib.util
import json
import pathlib
import resource
import statistics
import sys
import time
import warnings

import torch
import peft
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

warnings.filterwarnings("ignore", category=FutureWarning)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
ALL = "all-linear"
DIMENSIONS = ["hidden", "layers", "heads", "kv_heads", "ffn", "vocab"]
METHODS = {
    "lora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=ALL),
    # With experts: what `--set target_parameters=...` is to ft.
    "lora_experts": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"],
                                            target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    "dora": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=ALL, use_dora=True),
    "adalora": lambda: peft.AdaLoraConfig(init_r=12, target_r=8, lora_alpha=16, target_modules=ALL, total_step=1000),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "ln_tuning": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "post_attention_layernorm", "norm"]),
    "loha": lambda: peft.LoHaConfig(r=8, alpha=8, target_modules=ALL),
    "lokr": lambda: peft.LoKrConfig(r=8, alpha=8, target_modules=ALL),
    "oft": lambda: peft.OFTConfig(r=0, oft_block_size=32, target_modules=ALL),
    "shira": lambda: peft.ShiraConfig(r=32, target_modules=ALL),
    "miss": lambda: peft.MissConfig(r=64, target_modules=ALL),
    "gralora": lambda: peft.GraloraConfig(r=32, alpha=64, target_modules=ALL),
    "osf": lambda: peft.OSFConfig(target_modules=ALL),
    "vera": lambda: peft.VeraConfig(r=256, target_modules=ALL),
    "prompt_tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=20),
    "prefix_tuning": lambda: peft.PrefixTuningConfig(num_virtual_tokens=20),
    "p_tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=20, encoder_hidden_size=576),
    "p_tuning_v2": lambda: peft.PrefixTuningConfig(num_virtual_tokens=20),
    "trainable_tokens": lambda: peft.TrainableTokensConfig(token_indices=[1, 2, 3, 4], target_modules=["embed_tokens"]),
}

# What PEFT lacks, in plain torch: reduction factor, activation, after attention too, input, scale.
BOTTLENECKS = {
    "pfeiffer": (16, torch.nn.functional.relu, False, "sum", 1.0),
    "houlsby": (16, torch.nn.functional.silu, True, "output", 1.0),
    "parallel": (2, torch.nn.functional.relu, False, "residual", 4.0),
}


class Bottleneck(torch.nn.Module):
    """y = f + scale * up(act(down(h))): the decoder layer adds the residual r to it. h is r + f, f or r."""

    def __init__(self, hidden, factor, act, reads, scale):
        super().__init__()
        self.down = torch.nn.Linear(hidden, hidden // factor)
        self.up = torch.nn.Linear(hidden // factor, hidden)
        self.act, self.reads, self.scale = act, reads, scale

    def forward(self, r, f):
        h = {"sum": lambda: r + f, "output": lambda: f, "residual": lambda: r}[self.reads]()
        return f + self.scale * self.up(self.act(self.down(h)))


def add_bottlenecks(model, factor, act, attention, reads, scale):
    model.requires_grad_(False)

    def attach(layer, norm, sub_layer, name):
        adapter = Bottleneck(model.config.hidden_size, factor, act, reads, scale)
        residual = []
        norm.register_forward_pre_hook(lambda _, args: residual.append(args[0]))

        def join(_, __, output):
            first, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            joined = adapter(residual.pop(), first)
            return joined if rest is None else (joined, *rest)

        sub_layer.register_forward_hook(join)
        layer.add_module(name, adapter)

    for layer in model.model.layers:
        if attention:
            attach(layer, layer.input_layernorm, layer.self_attn, "attention_adapters")
        attach(layer, layer.post_attention_layernorm, layer.mlp, "output_adapters")
    return model


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shapes = json.loads(pathlib.Path(__file__).with_name("shapes.json").read_text())
    p.add_argument("--shape", choices=shapes, default="smollm2-135m", help="a model of benches/shapes.json")
    for name in DIMENSIONS:
        p.add_argument("--" + name.replace("_", "-"), type=int, help="where it differs from the shape's")
    p.add_argument("--experts", type=int, default=0, help="in the place of each MLP, --ffn wide (Qwen 3 with experts); 0 is none")
    p.add_argument("--per-token", type=int, default=2, help="experts that compute a token")
    p.add_argument("--linear", type=int, default=0, help="key heads of linear attention in three of four layers (Qwen 3.5); 0 is none")
    for name, default in dict(batch=4, seq=256, threads=2, steps=5, warmup=2, seed=0).items():
        p.add_argument("--" + name.replace("_", "-"), type=int, default=default)
    p.add_argument("--method", choices=[*METHODS, *BOTTLENECKS, "full"], default="lora")
    p.add_argument("--dtype", choices=DTYPES, default="f32", help="of the base, or of everything when that trains")
    p.add_argument("--device", default="cpu", help="cpu or cuda")
    p.add_argument("--untied", action="store_true", help="a head of its own instead of the embedding")
    p.add_argument("--checkpointing", default="off", help="off, or a number: recompute each block in the backward pass")
    p.add_argument("--quant", choices=["nf4", "nf4+double", "fp4", "int8"], help="the base in codes, with bitsandbytes")
    p.add_argument("--autocast", action="store_true", help="parameters in f32, products in --dtype: what ft does when everything trains")
    p.add_argument("--optim", choices=["adamw", "adamw_8bit"], default="adamw", help="8 bits: with bitsandbytes")
    for name in ["--set", "--clip", "--packed"]:
        p.add_argument(name, action="append", help="an option of ft, which has no part here")
    p.add_argument("--drawn", action="store_true", help="an option of ft: weights are drawn on the device anyway")
    a = p.parse_args()
    for name in DIMENSIONS:
        if getattr(a, name) is None:
            setattr(a, name, shapes[a.shape][name])
    a.untied = a.untied or shapes[a.shape]["untied"]
    return a


def sync(a):
    if a.device.startswith("cuda"):
        torch.cuda.synchronize()


def build(a):
    family, model_of, more = LlamaConfig, LlamaForCausalLM, {}
    if a.experts:
        family, model_of = Qwen3MoeConfig, Qwen3MoeForCausalLM
        more = dict(num_experts=a.experts, num_experts_per_tok=a.per_token, moe_intermediate_size=a.ffn, norm_topk_prob=True,
                    head_dim=a.hidden // a.heads)
    elif a.linear:
        family, model_of = Qwen3_5TextConfig, Qwen3_5ForCausalLM
        more = dict(head_dim=a.hidden // a.heads, linear_num_key_heads=a.linear, linear_num_value_heads=a.linear)
    config = family(**more, vocab_size=a.vocab, hidden_size=a.hidden, intermediate_size=a.ffn, num_hidden_layers=a.layers,
                         num_attention_heads=a.heads, num_key_value_heads=a.kv_heads, max_position_embeddings=max(2048, a.seq),
                         tie_word_embeddings=not a.untied, use_cache=False, attn_implementation="sdpa")
    held = torch.float32 if a.autocast else DTYPES[a.dtype]
    torch.set_default_dtype(held)
    with torch.device("meta" if a.quant else a.device):
        model = model_of(config)
    torch.set_default_dtype(torch.float32)
    if a.quant:
        model = quantized(a, model)
    if a.method in BOTTLENECKS:
        model = add_bottlenecks(model, *BOTTLENECKS[a.method])
    elif a.method != "full":
        method = METHODS[a.method]()
        method.task_type = "CAUSAL_LM"
        model = peft.get_peft_model(model, method)
    if a.checkpointing != "off":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def quantized(a, model):
    """The projections in codes, each drawn on the device and quantized there: no more than one of them is whole at a time."""
    import bitsandbytes as bnb

    dtype = DTYPES[a.dtype]
    for path, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or path == "lm_head":
            continue
        if a.quant == "int8":
            new = bnb.nn.Linear8bitLt(module.in_features, module.out_features, bias=False, has_fp16_weights=False, device="meta")
            new.weight = bnb.nn.Int8Params(drawn(a, module.weight.shape).cpu(), requires_grad=False, has_fp16_weights=False)
        else:
            kind, double = a.quant.removesuffix("+double"), a.quant.endswith("+double")
            new = bnb.nn.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=dtype,
                                    compress_statistics=double, quant_type=kind, device="meta")
            new.weight = bnb.nn.Params4bit(drawn(a, module.weight.shape).cpu(), requires_grad=False,
                                           compress_statistics=double, quant_type=kind)
        parent = model.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], new.to(a.device))
    for path, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            parent = model.get_submodule(path.rpartition(".")[0])
            value = drawn(a, parameter.shape) if parameter.dim() == 2 else torch.ones(parameter.shape, dtype=dtype, device=a.device)
            setattr(parent, path.rpartition(".")[2], torch.nn.Parameter(value, requires_grad=False))
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(a.device)
    model.is_loaded_in_4bit, model.is_loaded_in_8bit = a.quant != "int8", a.quant == "int8"
    return model


def drawn(a, shape):
    return torch.randn(shape, dtype=DTYPES[a.dtype], device=a.device) * 0.02


def gemm_gflops(a):
    """Rate of the product [batch * seq, hidden] x [hidden, ffn], the best of several runs."""
    m, k, n = a.batch * a.seq, a.hidden, a.ffn
    x = torch.randn(m, k, device=a.device, dtype=DTYPES[a.dtype])
    w = torch.randn(k, n, device=a.device, dtype=DTYPES[a.dtype])
    best = 0.0
    with torch.no_grad():
        for _ in range(10):
            sync(a)
            start = time.perf_counter()
            for _ in range(10):
                x @ w
            sync(a)
            best = max(best, 10 * 2 * m * k * n / (time.perf_counter() - start) / 1e9)
    return best


def gflop_per_step(a):
    """Matrix products of the step: forward and input gradients (x 2), weight gradients too when everything trains (x 3)."""
    head_dim = a.hidden // a.heads
    attention = 2 * a.hidden * a.hidden + 2 * a.hidden * a.kv_heads * head_dim
    used = a.per_token if a.experts else 1
    mixers = attention if not a.linear else (3 * 5 * 128 * a.linear * a.hidden + attention + a.hidden * a.hidden) / 4
    weights = a.layers * (mixers + 3 * a.hidden * a.ffn * used) + a.vocab * a.hidden
    return 2 * weights * a.batch * a.seq * (3 if a.method == "full" else 2) / 1e9


def train(a, model):
    g = torch.Generator().manual_seed(a.seed)
    batches = [torch.randint(0, a.vocab, (a.batch, a.seq), generator=g).to(a.device) for _ in range(a.warmup + a.steps)]
    trained = [p for p in model.parameters() if p.requires_grad]
    if a.optim == "adamw_8bit":
        import bitsandbytes as bnb
        optimizer = bnb.optim.AdamW8bit(trained, lr=1e-4)
    else:
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
    cast = lambda: torch.autocast(a.device.split(":")[0], DTYPES[a.dtype]) if a.autocast else contextlib.nullcontext()
    seconds = []
    for ids in batches:
        sync(a)
        start = time.perf_counter()
        with cast():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        sync(a)
        seconds.append(time.perf_counter() - start)
        print(f"{seconds[-1]:.3f} s, loss {loss.item():.4f}", file=sys.stderr)
    return seconds[a.warmup:], loss.item()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    if (a.quant or a.optim == "adamw_8bit") and importlib.util.find_spec("bitsandbytes") is None:
        sys.exit("torch_step.py: codes and 8-bit AdamW need bitsandbytes, which is not installed")
    model = build(a)
    seconds, loss = train(a, model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # before the rate is measured
    rate = gemm_gflops(a)
    step = statistics.median(seconds)
    result = {
        "tokens_per_s": a.batch * a.seq / step, "step_s": step, "peak_rss_bytes": peak, "gemm_gflops": rate,
        "gemm_share": gflop_per_step(a) / step / rate, "loss": loss,
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "torch": torch.__version__, **vars(a),
    }
    if a.device.startswith("cuda"):
        result["peak_device_bytes"] = torch.cuda.max_memory_allocated()
        result["device_name"] = torch.cuda.get_device_name()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
