"""A run of `ft train` beside the same one with TRL: preferences (DPO), distillation (GKD's loss on the data's answers) or packed
supervised fine-tuning.

    pip install -r benches/requirements.txt trl
    python benches/trl_run.py dpo     --ft target/release/ft --model MODEL --data pairs.jsonl
    python benches/trl_run.py distill --ft target/release/ft --model STUDENT --teacher TEACHER --data pairs.jsonl
    python benches/trl_run.py packing --ft target/release/ft --model MODEL --data e2e.jsonl --count 600 --batch-size 1

The file holds one object per line with `prompt`, `chosen` and `rejected` (distillation learns the chosen answers), for packing `prompt` and
`completion` (`ft data convert configs/e2e-lora.toml --out e2e.jsonl`), which are not cut; --batch-size counts rows of 1024 tokens then (TRL:
`packing_strategy = "bfd"`), and each side's own tokens are divided by its own CPU seconds, user and system, of the training loop: what other work on the
machine takes is not in them. `ft` runs a second time with one step, whose tokens and CPU seconds are subtracted; and once more with rows of
one sample each in the order of the file, --padded of them in a step. Both sides train LoRA
(rank 8, all linear layers, no dropout) in f32 for one epoch over the same --count records, --batch-size at a time, with AdamW at one rate;
prompts and answers are cut to --prompt and --answer words, so that both sides see every token. They run in turns, --rounds times, each in
its own process; seconds are those of the training loop alone, and the fastest round counts. Prints a Markdown table.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("objective", choices=["dpo", "distill", "packing"])
    p.add_argument("--ft", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--teacher")
    p.add_argument("--data", required=True, type=pathlib.Path)
    p.add_argument("--count", type=int, default=32)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--prompt", type=int, default=96, help="words")
    p.add_argument("--answer", type=int, default=64, help="words")
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--padded", type=int, default=8, help="samples of an unpacked step (packing)")
    p.add_argument("--side", choices=["trl"], help=argparse.SUPPRESS)
    a = p.parse_args()
    if (a.teacher is None) == (a.objective == "distill"):
        p.error("distill takes --teacher, and dpo none")
    return a


def records(a):
    """The first records that have all three texts, cut to so many words."""
    found = []
    if a.objective == "packing":
        rows = [json.loads(line) for line in a.data.open()]
        return [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows[: a.count]]
    for line in a.data.open():
        record = json.loads(line)
        cut = {k: " ".join(record[k].split()[:n]) for k, n in [("prompt", a.prompt), ("chosen", a.answer), ("rejected", a.answer)]}
        if all(cut.values()) and cut["chosen"] != cut["rejected"]:
            found.append(cut)
        if len(found) == a.count:
            return found
    raise SystemExit(f"{a.data}: {len(found)} usable records, {a.count} are wanted")


def messages(record):
    return [{"role": "user", "content": record["prompt"]}, {"role": "assistant", "content": record["chosen"]}]


def ours(a, rows, folder, more=()):
    """Seconds, tokens and peak bytes of `ft train`, and the CPU seconds of its process."""
    import os
    import resource

    out = folder / f"run{len(list(folder.iterdir()))}"
    if a.objective == "dpo":
        (folder / "data.jsonl").write_text("".join(json.dumps({**r, **{k: " " + r[k] for k in ("chosen", "rejected")}}) + "\n" for r in rows))
        sets = ['data.format="preference"', 'objective.kind="dpo"']
    elif a.objective == "packing":
        (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        sets = ['data.format="prompt-completion"', "data.pack=true"]
    else:
        (folder / "data.jsonl").write_text("".join(json.dumps({"messages": messages(r)}) + "\n" for r in rows))
        (folder / "template.jinja").write_text(TEMPLATE)
        sets = ['data.format="chat"', f'data.chat_template="{folder / "template.jinja"}"', 'objective.kind="distill"', "objective.alpha=1.0",
                "objective.beta=0.5", f'objective.teacher="{a.teacher}"']
    config = folder / "run.toml"
    config.write_text(f"""
[model]
path = "{a.model}"
[peft]
method = "lora"
rank = 8
alpha = 16
targets = "all-linear"
[data]
train = "{folder / 'data.jsonl'}"
max_length = 1024
[optim]
lr = 1e-5
[train]
batch_size = {a.batch_size}
epochs = 1
save_every = 1000000
out = "{out}"
force = true
""")
    sets = [x for s in [*sets, *more] for x in ("--set", s)]
    command = [a.ft, "train", str(config), "--json", "--quiet", "--device", "cpu", *sets]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "RAYON_NUM_THREADS": str(a.threads)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr)
    said = json.loads(done.stdout)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": said["seconds"], "cpu": cpu, "tokens": said["tokens"], "peak": said["peak_memory_bytes"], "steps": said["steps"]}


def ours_by_cpu(a, rows, more=()):
    """A whole epoch without what one step takes with all around it."""
    with tempfile.TemporaryDirectory() as folder:
        one, all_ = [ours(a, rows, pathlib.Path(folder), [*more, *steps]) for steps in (["train.steps=1"], [])]
    return {**all_, "tokens": all_["tokens"] - one["tokens"], "cpu": all_["cpu"] - one["cpu"]}


def theirs(a, rows):
    """The same of TRL, in this process."""
    import resource
    import time

    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    torch.set_num_threads(a.threads)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    class Clock(TrainerCallback):
        seconds = 0.0
        cpu = 0.0

        def on_step_begin(self, *_, **__):
            self.start, self.cpu_start = time.perf_counter(), time.process_time()

        def on_step_end(self, *_, **__):
            self.seconds += time.perf_counter() - self.start
            self.cpu += time.process_time() - self.cpu_start

    clock = Clock()
    common = dict(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=a.batch_size, num_train_epochs=1, learning_rate=1e-5, use_cpu=True,
                  bf16=False, fp16=False, gradient_checkpointing=False, max_length=1024, report_to="none", save_strategy="no",
                  logging_strategy="no", disable_tqdm=True, lr_scheduler_type="constant", max_grad_norm=1.0)
    peft = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    if a.objective == "dpo":
        from trl import DPOConfig, DPOTrainer

        data = Dataset.from_list([{**r, **{k: " " + r[k] for k in ("chosen", "rejected")}} for r in rows])
        trainer = DPOTrainer(model=model, args=DPOConfig(**common), train_dataset=data, processing_class=tokenizer, peft_config=peft,
                             callbacks=[clock])
    elif a.objective == "packing":
        from trl import SFTConfig, SFTTrainer

        trainer = SFTTrainer(model=model, args=SFTConfig(**common, packing=True, packing_strategy="bfd"), train_dataset=Dataset.from_list(rows),
                             processing_class=tokenizer, peft_config=peft, callbacks=[clock])
    else:
        from trl.experimental.gkd import GKDConfig, GKDTrainer

        tokenizer.chat_template = TEMPLATE
        teacher = AutoModelForCausalLM.from_pretrained(a.teacher, dtype=torch.float32)
        data = Dataset.from_list([{"messages": messages(r)} for r in rows])
        trainer = GKDTrainer(model=model, teacher_model=teacher, args=GKDConfig(**common, lmbda=0.0, beta=0.5, temperature=1.0),
                             train_dataset=data, processing_class=tokenizer, peft_config=peft, callbacks=[clock])
    steps = trainer.train().global_step
    tokens = sum(len(row["input_ids"]) for row in trainer.train_dataset) if a.objective == "packing" else None
    return {"seconds": clock.seconds, "cpu": clock.cpu, "tokens": tokens, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "steps": steps}


def trl_apart():
    done = subprocess.run([sys.executable, *sys.argv, "--side", "trl"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def packing(a, rows):
    padded = ["data.pack=false", "data.shuffle=false", f"train.batch_size={a.padded}"]
    sides = {
        "ft, packed": lambda: ours_by_cpu(a, rows),
        "ft, padded": lambda: ours_by_cpu(a, rows, padded),
        "TRL, packed": trl_apart,
    }
    rates = {name: [] for name in sides}
    for round_ in range(a.rounds):
        for name, run in sides.items():
            run = run()
            rates[name].append(run["tokens"] / run["cpu"])
            print(f"round {round_ + 1}: {name}: {run['tokens']} tokens in {run['cpu']:.1f} CPU s ({rates[name][-1]:.0f} per CPU s), "
                  f"{run['steps']} steps, {run['peak'] / 1e9:.2f} GB", file=sys.stderr)
    print(f"| | tokens per CPU second, {a.rounds} rounds | mean | times TRL |\n|---|---|---|---|")
    mean = {name: sum(own) / len(own) for name, own in rates.items()}
    for name, own in rates.items():
        print(f"| {name} | {', '.join(f'{rate:.0f}' for rate in own)} | {mean[name]:.0f} | {mean[name] / mean['TRL, packed']:.2f} |")


def main():
    a = arguments()
    rows = records(a)
    if a.side:
        print(json.dumps(theirs(a, rows)))
        return
    if a.objective == "packing":
        packing(a, rows)
        return
    best = {}
    for round_ in range(a.rounds):
        with tempfile.TemporaryDirectory() as folder:
            runs = {"ft": ours(a, rows, pathlib.Path(folder))}
        runs["TRL"] = trl_apart()
        for name, run in runs.items():
            print(f"round {round_ + 1}: {name} {run['seconds']:.1f} s, {run['peak'] / 1e9:.2f} GB, {run['steps']} steps", file=sys.stderr)
            if name not in best or run["seconds"] < best[name]["seconds"]:
                best[name] = run
    mine, trl = best["ft"], best["TRL"]
    if mine["steps"] != trl["steps"]:
        raise SystemExit(f"{mine['steps']} steps here, {trl['steps']} there")
    rates = [mine["tokens"] / mine["seconds"], mine["tokens"] / trl["seconds"]]
    print("| objective | tokens | ft, tokens/s | TRL, tokens/s | times | ft, GB | TRL, GB | share |\n|---|---|---|---|---|---|---|---|")
    print(f"| {a.objective} | {mine['tokens']} | {rates[0]:.0f} | {rates[1]:.0f} | "
          f"{rates[0] / rates[1]:.2f} | {mine['peak'] / 1e9:.2f} | {trl['peak'] / 1e9:.2f} | {mine['peak'] / trl['peak']:.2f} |")


if __name__ == "__main__":
    main()
