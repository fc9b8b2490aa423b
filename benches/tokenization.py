"""Tokenization by ft beside Python's `datasets.map` with `tokenizers`, in turns on the same cores: `results/2026-11-29-tokenization.md`.

    python benches/tokenization.py TOKENIZER_DIR FILE.jsonl --ft target/debug/examples/tokens_per_second --rounds 3

FILE is JSON lines with `instruction`, `input` and `output`. Both sides make prompt and answer of the same text, encode them apart, put the end of text behind
and mask the prompt; the numbers of tokens must be equal. Python encodes in batches by the Rust library, in two processes, or in one with the library's own
threads. Prints a line per turn and the medians: seconds by the clock and CPU seconds (children included).

Made with datasets 5.2.0 and tokenizers 0.23.3.
"""

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time


def cpu():
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def python_turn(folder, file, processes):
    """Runs in a process of its own; prints one JSON object."""
    import datasets
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    eos = tokenizer.token_to_id(json.load(open(os.path.join(folder, "tokenizer_config.json")))["eos_token"])

    def encode(batch):
        prompts = [
            f"### Instruction:\n{i}\n\n### Input:\n{x}\n\n### Response:\n"
            for i, x in zip(batch["instruction"], batch["input"])
        ]
        prompts = tokenizer.encode_batch_fast(prompts, add_special_tokens=False)
        answers = tokenizer.encode_batch_fast(batch["output"], add_special_tokens=False)
        pairs = [(p.ids, a.ids + [eos]) for p, a in zip(prompts, answers)]
        return {"input_ids": [p + a for p, a in pairs], "labels": [[-100] * len(p) + a for p, a in pairs]}

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        times = [(time.perf_counter(), cpu())]
        data = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
        times.append((time.perf_counter(), cpu()))
        processes = processes if processes > 1 else None
        data = data.map(encode, batched=True, num_proc=processes, remove_columns=data.column_names)
        times.append((time.perf_counter(), cpu()))
        tokens = sum(len(ids) for ids in data["input_ids"])
    spans = [[b - a for a, b in zip(times[i], times[i + 1])] for i in range(2)]
    names = ["load_s", "load_cpu_s", "map_s", "map_cpu_s"]
    print(json.dumps({"tokens": tokens, **dict(zip(names, spans[0] + spans[1]))}))


def run_python(args, processes):
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false" if processes > 1 else "true")
    command = [sys.executable, __file__, args.tokenizer, args.file, "--python-turn", str(processes)]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def run_ft(args, cache):
    shutil.rmtree(cache, ignore_errors=True)
    prompt = "prompt=### Instruction:\\n{instruction}\\n\\n### Input:\\n{input}\\n\\n### Response:\\n"
    command = [args.ft, args.tokenizer, args.file, prompt, "completion={output}", "--cache", cache]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    first = re.search(r": ([\d.]+) s, ([\d.]+) CPU s, (\d+) tokens", out)
    again = re.search(r"read again in ([\d.]+) s, ([\d.]+) CPU s", out)
    names = ["s", "cpu_s", "again_s", "again_cpu_s"]
    numbers = [*first.groups()[:2], *again.groups()]
    return {"tokens": int(first.group(3)), **{name: float(number) for name, number in zip(names, numbers)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer")
    parser.add_argument("file")
    parser.add_argument("--ft")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python-turn", type=int)
    args = parser.parse_args()
    if args.python_turn:
        return python_turn(args.tokenizer, args.file, args.python_turn)
    turns = {"ft": [], "python, 2 processes": [], "python, 1 process with threads": []}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(args.rounds):
            for name, turn in [
                ("ft", lambda: run_ft(args, os.path.join(cache, "tokens"))),
                ("python, 2 processes", lambda: run_python(args, 2)),
                ("python, 1 process with threads", lambda: run_python(args, 1)),
            ]:
                turns[name].append(turn())
                print(name, json.dumps(turns[name][-1]), flush=True)
    counted = {turn["tokens"] for own in turns.values() for turn in own}
    assert len(counted) == 1, f"other tokens: {counted}"
    for name, own in turns.items():
        print(name, {key: round(statistics.median(turn[key] for turn in own), 3) for key in own[0]})


if __name__ == "__main__":
    main()
