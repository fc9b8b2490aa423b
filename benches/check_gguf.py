"""Reads a GGUF file that `ft export --for llama.cpp` wrote with the `gguf` package, and checks every tensor and key; then, if
llama-cpp-python is there, lets llama.cpp tokenize and continue texts and compares with what `ft generate` printed.

    pip install gguf numpy tokenizers llama-cpp-python
    ft export MODEL --for llama.cpp --dtype q8_0 --out m.gguf
    python benches/check_gguf.py --gguf m.gguf --model MODEL                       # a model: bytes of every tensor, hyperparameters, tokens
    python benches/check_gguf.py --gguf a.gguf --model BASE --adapter ADAPTER      # an adapter: B A as PEFT scales it
    python benches/check_gguf.py --gguf m.gguf --model BASE --adapter ADAPTER --merged   # merged: within a rounding of f32
    ft generate MODEL --prompts prompts.txt --temperature 0 --max-new-tokens 40 --json > said.json
    python benches/check_gguf.py --gguf m.gguf --model MODEL --prompts prompts.txt --said said.json [--lora a.gguf]

Names and quantization come from the `gguf` package, tensors and scales from the checkpoint and PEFT's files: nothing of `ft` is used.
Prints one JSON object; the exit code is 1 when anything differs.
"""
import argparse
import json
import pathlib
import re
import struct
import sys
import zlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize

ARCH = {"llama": "LLAMA", "mistral": "LLAMA", "qwen2": "QWEN2", "qwen3": "QWEN3", "gpt2": "GPT2"}
TEXTS = ["Once upon a time, there was a little girl named Lily.", " Two  spaces\nand a\ttab 1234567 + 89!", "Don't you'll WE'RE naïve café 北京 🙂 x²",
         "def f(x):\n    return x**2  # ok\n\n\n", "a", " ", "\n"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--gguf", required=True, type=pathlib.Path)
    p.add_argument("--model", required=True, type=pathlib.Path)
    p.add_argument("--adapter", type=pathlib.Path)
    p.add_argument("--merged", action="store_true")
    p.add_argument("--lora", type=pathlib.Path, help="a GGUF adapter for llama.cpp to put on the model")
    p.add_argument("--prompts", type=pathlib.Path)
    p.add_argument("--said", type=pathlib.Path)
    return p.parse_args()


def tensors(folder, name):
    """A safetensors file, or the shards of an index, as f32 arrays."""
    index = folder / f"{name}.safetensors.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() else [f"{name}.safetensors"]
    out = {}
    for file in files:
        blob = (folder / file).read_bytes()
        n = struct.unpack("<Q", blob[:8])[0]
        for key, info in json.loads(blob[8:8 + n]).items():
            if key == "__metadata__":
                continue
            raw = blob[8 + n + info["data_offsets"][0]:8 + n + info["data_offsets"][1]]
            if info["dtype"] == "BF16":
                data = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                data = np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[info["dtype"]]).astype(np.float32)
            out[key] = data.reshape(info["shape"])
    return out


def heads_of(config, key):
    heads = config["num_attention_heads"]
    return heads if ".q_proj." in key else config.get("num_key_value_heads", heads)


def reorder(config, key, x):
    """llama.cpp's row order of queries and keys, for its "llama" architecture."""
    if ARCH[config["model_type"]] != "LLAMA" or not re.search(r"\.[qk]_proj\.", key):
        return x
    n = heads_of(config, key)
    return x.reshape(n, 2, x.shape[0] // n // 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def name_map(config):
    layers = config.get("num_hidden_layers", config.get("n_layer"))
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH[ARCH[config["model_type"]]], layers)
    return lambda key: table.get_name(key, try_suffixes=(".weight", ".bias"))


def type_of(name, shape, wanted):
    if len(shape) < 2 or name.startswith("position_embd"):
        return Q.F32
    return Q.F16 if wanted == Q.Q8_0 and shape[-1] % 32 else wanted


def llama3_factors(config):
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") != "llama3":
        return None
    dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    wave = 2 * np.pi * np.float64(base) ** (np.arange(0, dim, 2) / dim)
    low, high, old = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    smooth = (old / wave - low) / (high - low)
    mid = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return np.where(wave < old / high, 1.0, np.where(wave > old / low, rope["factor"], mid)).astype(np.float32)


def scale(adapter, path):
    def of(patterns, default):
        hits = [v for k, v in (patterns or {}).items() if re.match(rf"^(?:.*\.)?(?:{k})$", path)]
        return hits[0] if hits else default
    r, alpha = of(adapter.get("rank_pattern"), adapter["r"]), of(adapter.get("alpha_pattern"), adapter["lora_alpha"])
    return alpha / (r ** 0.5 if adapter.get("use_rslora") else r)


def deltas(folder):
    config, found = json.loads((folder / "adapter_config.json").read_text()), tensors(folder, "adapter_model")
    strip = lambda key: key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
    paths = [strip(k) for k in found if k.endswith(".lora_A.weight")]
    pair = lambda p: (found[f"base_model.model.{p}.lora_B.weight"].astype(np.float64), found[f"base_model.model.{p}.lora_A.weight"].astype(np.float64))
    return {p: scale(config, p) * (pair(p)[0] @ pair(p)[1]) for p in paths}


def expected_model(a, config, wanted):
    """name -> (array, type, whether it may differ by a rounding)."""
    rename, out = name_map(config), {}
    merged = deltas(a.adapter) if a.merged else {}
    weights = tensors(a.model, "model")
    prefix = "transformer." if "wte.weight" in weights else ""
    tied = config.get("tie_word_embeddings", config["model_type"] == "gpt2")
    for key, x in weights.items():
        key = prefix + key
        if (tied and key == "lm_head.weight") or key.endswith((".attn.bias", ".masked_bias", "inv_freq")):
            continue
        if key.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            x = x.T
        path = key.removesuffix(".weight")
        if path in merged:
            x = (x.astype(np.float64) + merged[path]).astype(np.float32)
        name = rename(key)
        out[name] = (np.ascontiguousarray(reorder(config, key, x)), type_of(name, x.shape, wanted), path in merged)
    factors = llama3_factors(config)
    if factors is not None:
        out["rope_freqs.weight"] = (factors, Q.F32, True)
    return out


def check_tensors(reader, expected):
    found, wrong = {t.name: t for t in reader.tensors}, []
    wrong += [f"missing: {n}" for n in expected.keys() - found.keys()] + [f"unexpected: {n}" for n in found.keys() - expected.keys()]
    worst = 0.0
    for name in expected.keys() & found.keys():
        (want, kind, rounded), t = expected[name], found[name]
        if t.tensor_type != kind or list(reversed(t.shape.tolist())) != list(want.shape):
            wrong.append(f"{name}: {t.tensor_type.name} {t.shape.tolist()}, expected {kind.name} {list(reversed(want.shape))}")
            continue
        if rounded:
            got = dequantize(t.data, t.tensor_type).reshape(want.shape)
            step = {Q.F32: 1e-6, Q.F16: 1e-3, Q.BF16: 8e-3, Q.Q8_0: 1e-2}[kind] * max(1.0, float(np.abs(want).max()))
            difference = float(np.abs(got - want).max())
            worst = max(worst, difference)
            if not difference <= step:
                wrong.append(f"{name}: differs by {difference}")
        elif np.ascontiguousarray(t.data).tobytes() != np.ascontiguousarray(quantize(want, kind)).tobytes():
            wrong.append(f"{name}: bytes differ")
    return wrong, worst


def check_adapter(reader, a, config):
    found, rename, wrong, worst = {t.name: t.data for t in reader.tensors}, name_map(config), [], 0.0
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    for path, want in deltas(a.adapter).items():
        key = path + ".weight"
        name = rename(key)
        lora_a, lora_b = (found.pop(f"{name}.lora_{x}", None) for x in "ab")
        if lora_a is None or lora_b is None:
            wrong.append(f"missing: {name}")
            continue
        got = alpha / lora_b.shape[-1] * (lora_b.astype(np.float64) @ lora_a.astype(np.float64))
        difference = float(np.abs(got - reorder(config, key, want)).max())
        worst = max(worst, difference)
        if difference > 1e-6:
            wrong.append(f"{name}: differs by {difference}")
    wrong += [f"unexpected: {n}" for n in found]
    for key, value in {"general.type": "adapter", "adapter.type": "lora", "general.architecture": ARCH[config["model_type"]].lower()}.items():
        if reader.fields[key].contents() != value:
            wrong.append(f"{key}: {reader.fields[key].contents()}")
    return wrong, worst


def expected_metadata(config, wanted):
    arch = ARCH[config["model_type"]].lower()
    c = lambda *names, default=None: next((config[n] for n in names if config.get(n) is not None), default)
    heads, hidden = c("num_attention_heads", "n_head"), c("hidden_size", "n_embd")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    head = c("head_dim", default=hidden // heads)
    out = {"general.architecture": arch, "general.type": "model",
           "general.file_type": {Q.F32: 0, Q.F16: 1, Q.Q8_0: 7, Q.BF16: 32}[wanted], f"{arch}.block_count": c("num_hidden_layers", "n_layer"),
           f"{arch}.embedding_length": hidden, f"{arch}.feed_forward_length": c("intermediate_size", "n_inner", default=4 * hidden),
           f"{arch}.attention.head_count": heads, f"{arch}.attention.head_count_kv": c("num_key_value_heads", default=heads),
           f"{arch}.attention.key_length": head, f"{arch}.attention.value_length": head, f"{arch}.vocab_size": config["vocab_size"]}
    slides = config["model_type"] == "mistral" or config.get("use_sliding_window")
    context = c("max_position_embeddings", "n_positions")
    out[f"{arch}.context_length"] = min(context, config["sliding_window"]) if slides and config.get("sliding_window") else context
    if arch == "gpt2":
        out["gpt2.attention.layer_norm_epsilon"] = config.get("layer_norm_epsilon", 1e-5)
    else:
        out |= {f"{arch}.attention.layer_norm_rms_epsilon": config.get("rms_norm_eps", 1e-6), f"{arch}.rope.dimension_count": head,
                f"{arch}.rope.freq_base": rope.get("rope_theta", config.get("rope_theta", 10000.0))}
    return out


def check_metadata(reader, expected):
    same = lambda a, b: abs(a - b) <= 1e-6 * abs(b) if isinstance(b, float) else a == b
    value = lambda key: reader.fields[key].contents() if key in reader.fields else None
    return [f"{k}: {value(k)}, expected {v}" for k, v in expected.items() if value(k) is None or not same(value(k), v)]


def check_tokenizer(a, llama):
    """llama.cpp's tokens of texts against those of the tokenizers package."""
    from tokenizers import Tokenizer
    inner, wrong = Tokenizer.from_file(str(a.model / "tokenizer.json")), []
    for text in TEXTS + ([p for p in a.prompts.read_text().splitlines() if p.strip()] if a.prompts else []):
        want, got = inner.encode(text, add_special_tokens=True).ids, llama.tokenize(text.encode(), add_bos=True, special=True)
        if want != got:
            wrong.append({"text": text, "llama.cpp": got, "tokenizers": want})
    return wrong


def check_generation(a, llama):
    """Greedy continuations, and how close a runner-up was where they part."""
    said, wrong, tokens = json.loads(a.said.read_text()), [], 0
    for prompt, answer in zip([p for p in a.prompts.read_text().splitlines() if p.strip()], said.get("generations", [said])):
        ids = llama.tokenize(prompt.encode(), add_bos=True, special=True)
        for step, want in enumerate(answer["tokens"]):
            llama.reset()
            llama.eval(ids + answer["tokens"][:step])
            logits = np.array(llama.scores[len(ids) + step - 1])
            tokens += 1
            if int(logits.argmax()) != want:
                wrong.append({"prompt": prompt, "step": step, "ft": want, "llama.cpp": int(logits.argmax()), "behind": float(logits.max() - logits[want])})
    return wrong, tokens


def golden(a, config, wanted):
    """What a file of this model must hold, from the checkpoint alone: keys, and for each tensor its type, shape and checksum."""
    data = lambda want, kind: np.ascontiguousarray(quantize(want, kind)).tobytes()
    sums = {n: [k.value, list(w.shape), zlib.crc32(data(w, k))] for n, (w, k, _) in expected_model(a, config, wanted).items()}
    return {"metadata": expected_metadata(config, wanted), "tensors": sums}


def main():
    a = arguments()
    config, reader = json.loads((a.model / "config.json").read_text()), gguf.GGUFReader(a.gguf)
    result = {"tensors": len(reader.tensors)}
    if a.adapter and not a.merged:
        wrong, worst = check_adapter(reader, a, config)
    else:
        wanted = {0: Q.F32, 1: Q.F16, 7: Q.Q8_0, 32: Q.BF16}[int(reader.fields["general.file_type"].contents())]
        expected = expected_model(a, config, wanted)
        wrong, worst = check_tensors(reader, expected)
        wrong += check_metadata(reader, expected_metadata(config, wanted))
        try:
            import llama_cpp
            llama = llama_cpp.Llama(str(a.gguf), n_ctx=256, logits_all=True, verbose=False, lora_path=str(a.lora) if a.lora else None)
            if a.said or any(f.startswith("tokenizer.ggml.merges") or f.startswith("tokenizer.ggml.scores") for f in reader.fields):
                result["tokenizer"] = check_tokenizer(a, llama)
                wrong += ["tokens differ"] * bool(result["tokenizer"])
            if a.said:
                result["generation"], result["generated"] = check_generation(a, llama)
                # A quantized file may prefer another token where two are close.
                wrong += ["greedy tokens differ"] * any(g["behind"] > (0.5 if wanted == Q.Q8_0 else 0.05) for g in result["generation"])
        except ImportError:
            result["llama.cpp"] = "not installed"
    result |= {"largest_difference": worst, "wrong": wrong}
    print(json.dumps(result, ensure_ascii=False))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
