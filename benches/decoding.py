"""One stream of `ft serve` beside llama.cpp on the same checkpoint, in turns: tokens per second of the clock and of processor time,
seconds to the first token, memory.

    npm pack @node-llama-cpp/linux-x64@3.22.1 && tar xzf node-llama-cpp-linux-x64-3.22.1.tgz
    python benches/decoding.py --ft target/release/ft --model SMOLLM2 --llama package/bins/linux-x64

Both get the same token ids and go on past stop tokens. Prints one JSON object per type of weights: medians over the rounds, and the
median of the ratios of rounds. Times of ft are those of its client, so that HTTP is in them.
"""
import argparse
import ctypes
import http.client
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

# What ft is asked to hold, and the file that llama.cpp reads.
TYPES = {"bf16": ([], "bf16"), "int8": (["--quant", "int8"], "q8_0"), "nf4": (["--quant", "nf4"], "q4_k_m")}


class Params(ctypes.Structure):
    """llama_context_params and llama_model_params: the first field of the former is the size of the context."""
    _fields_ = [("first", ctypes.c_uint32), ("rest", ctypes.c_byte * 508)]


class Batch(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int32)] + [(name, ctypes.c_void_p) for name in ("token", "embd", "pos", "n_seq_id", "seq_id", "logits")]


class Llama:
    """llama.cpp in this process."""

    def __init__(self, folder, gguf, threads, context):
        import numpy
        self.numpy = numpy
        (ggml,) = sorted(folder.glob("libggml.v*.so")) or sorted(folder.glob("libggml.so"))
        (library,) = sorted(folder.glob("libllama.v*.so")) or sorted(folder.glob("libllama.so"))
        backends = ctypes.CDLL(str(ggml), mode=ctypes.RTLD_GLOBAL)
        self.lib = lib = ctypes.CDLL(str(library))
        self.log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
        lib.llama_log_set(self.log, None)
        backends.ggml_backend_load_all_from_path(str(folder).encode())
        pointer, params = ctypes.c_void_p, Params
        for name, result, arguments in [
            ("llama_model_default_params", params, []), ("llama_context_default_params", params, []),
            ("llama_model_load_from_file", pointer, [ctypes.c_char_p, params]), ("llama_init_from_model", pointer, [pointer, params]),
            ("llama_model_get_vocab", pointer, [pointer]), ("llama_vocab_n_tokens", ctypes.c_int32, [pointer]),
            ("llama_set_n_threads", None, [pointer, ctypes.c_int32, ctypes.c_int32]),
            ("llama_batch_get_one", Batch, [pointer, ctypes.c_int32]), ("llama_decode", ctypes.c_int32, [pointer, Batch]),
            ("llama_get_logits_ith", ctypes.POINTER(ctypes.c_float), [pointer, ctypes.c_int32]),
            ("llama_get_memory", pointer, [pointer]), ("llama_memory_clear", None, [pointer, ctypes.c_bool]),
        ]:
            function = getattr(lib, name)
            function.restype, function.argtypes = result, arguments
        model = lib.llama_model_load_from_file(str(gguf).encode(), lib.llama_model_default_params())
        own = lib.llama_context_default_params()
        own.first = context
        self.context = lib.llama_init_from_model(model, own) if model else None
        if not self.context:
            sys.exit(f"llama.cpp cannot read {gguf}")
        lib.llama_set_n_threads(self.context, threads, threads)
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))

    def run(self, prompt, tokens):
        lib, context = self.lib, self.context
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        started, burned = time.perf_counter(), time.process_time()
        ids, out, first = (ctypes.c_int32 * len(prompt))(*prompt), [], None
        for _ in range(tokens):
            if lib.llama_decode(context, lib.llama_batch_get_one(ctypes.addressof(ids), len(ids))):
                sys.exit("llama.cpp did not decode")
            logits = self.numpy.ctypeslib.as_array(lib.llama_get_logits_ith(context, -1), (self.vocab,))
            out.append(int(logits.argmax()))
            ids = (ctypes.c_int32 * 1)(out[-1])
            first = first or (time.perf_counter(), time.process_time())
        return timed(started, first, (time.perf_counter(), time.process_time()), tokens) | {"ids": out}


def timed(started, first, last, tokens):
    wall, cpu = last[0] - first[0], last[1] - first[1]
    return {"first_token_s": first[0] - started, "per_s": (tokens - 1) / wall, "per_cpu_s": (tokens - 1) / max(cpu, 1e-9)}


class Ft:
    """`ft serve` as a process of its own."""

    def __init__(self, ft, model, flags, threads, cache, lookup):
        arguments = [ft, "serve", model, "--port", "0", "--device", "cpu", "--cache", str(cache), "--lookup", str(lookup), *flags]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
        self.said = []
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"listening on http://([\d.]+):(\d+)", line):
                self.address = found[1], int(found[2])
                self.model = model
                return
        sys.exit("ft serve did not start:\n" + "".join(self.said))

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self):
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return {name: int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) * 1024 for name in ("VmHWM", "VmRSS")}

    def run(self, prompt, tokens):
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True, "ignore_eos": True,
                "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection(*self.address, timeout=600)
        started, first, last, count = time.perf_counter(), None, None, 0
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        for line in answer:
            data = line.decode().removeprefix("data: ").strip()
            if not data or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                sys.exit(f"ft serve: {event}")
            if event.get("choices"):
                last = (time.perf_counter(), self.cpu() if first is None else None)
                first = first or last
            elif event.get("usage"):
                count = event["usage"]["completion_tokens"]
        assert count == tokens, (count, tokens)
        return timed(started, first, (last[0], self.cpu()), tokens)

    def close(self):
        self.process.terminate()
        self.process.wait()


def measure(a, name, folder):
    flags, kind = TYPES[name]
    gguf = pathlib.Path(folder) / f"{kind}.gguf"
    subprocess.run([a.ft, "export", a.model, "--for", "llama.cpp", "--dtype", kind, "--out", str(gguf)], check=True, stdout=subprocess.DEVNULL)
    length = a.prompt + a.tokens
    theirs, ours = Llama(a.llama, gguf, a.threads, length + 64), Ft(a.ft, a.model, flags, a.threads, a.cache, a.lookup)
    try:
        rounds = []
        # The first round warms caches, pages and threads.
        for number in range(a.rounds + 1):
            prompt = [(i * 7919 + number * 31) % 40000 + 20 for i in range(a.prompt)]
            both = {"ft": ours.run(prompt, a.tokens), "llama.cpp": theirs.run(prompt, a.tokens)}
            if number > 0:
                rounds.append(both)
        keys = ("per_s", "per_cpu_s", "first_token_s")
        middle = {who: {key: round(statistics.median(r[who][key] for r in rounds), 4) for key in keys} for who in ("ft", "llama.cpp")}
        ratios = {key: round(statistics.median(r["ft"][key] / r["llama.cpp"][key] for r in rounds), 3) for key in keys}
        stored = sum(f.stat().st_size for f in pathlib.Path(a.model).glob("*.safetensors"))
        return {"weights": name, "gguf": kind, "prompt": a.prompt, "tokens": a.tokens, "threads": a.threads, "rounds": a.rounds, **middle,
                "ratio": ratios, "memory": ours.memory(), "checkpoint_bytes": stored, "gguf_bytes": gguf.stat().st_size,
                "cache": "".join(line for line in ours.said if "cache" in line).strip()}
    finally:
        ours.close()


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ft", required=True)
    p.add_argument("--model", required=True, help="folder of a checkpoint in bf16")
    p.add_argument("--llama", required=True, type=pathlib.Path, help="folder of libllama and libggml")
    p.add_argument("--types", default="bf16,int8", help=", ".join(TYPES))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    p.add_argument("--tokens", type=int, default=128, help="tokens that are generated")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--cache", type=int, default=1024, help="positions of ft's cache")
    p.add_argument("--lookup", type=int, default=0, help="as in ft serve; 0 computes one token at a time, as llama.cpp does here")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in a.types.split(","):
            print(json.dumps(measure(a, name, folder)), flush=True)
