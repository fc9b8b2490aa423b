"""Multiple choice by `ft eval`, beside lm-evaluation-harness with its `hf` model, on made-up rows in the forms of ARC, HellaSwag and MMLU.

    pip install -r benches/requirements.txt lm_eval
    python benches/check_choices.py --ft target/release/ft --model MODEL [--rows 40]

The rows are drawn from a seed; the harness' own tasks (`arc_easy`, `hellaswag`, `mmlu_anatomy`) read them from files, without examples before them. Prints
accuracy, length-normalized accuracy where the task has it, of both, and fails where they differ.
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import lm_eval
import yaml
from lm_eval.tasks import TaskManager

ANIMALS = "heron otter lynx badger trout viper moth mole crane hare".split()
PLACES = "the harbour|a cellar|the far hill|an empty church|the kitchen|a cold river".split("|")
DEEDS = "carries a lantern|paints the door|counts the barrels|repairs a net|sings to the children|sharpens both knives".split("|")
SUBJECTS = ["anatomy", "high_school_physics"]


def sentence(r):
    return f"The {r.choice(ANIMALS)} is in {r.choice(PLACES)} and {r.choice(DEEDS)}."


def arc(r):
    letters = r.choice([list("ABCD"), list("1234"), list("ABCDE")])
    texts = [f"{r.choice(PLACES)} {'very ' * r.randrange(3)}early" for _ in letters]
    return {"id": str(r.random()), "question": f"{sentence(r)} Where would the {r.choice(ANIMALS)} go next?",
            "choices": {"text": texts, "label": letters}, "answerKey": r.choice(letters)}


def hellaswag(r):
    endings = [f"{r.choice(DEEDS)} [step] in {r.choice(PLACES)}{r.choice(['', ' [title] Later on', '  again'])}." for _ in range(4)]
    return {"ind": r.randrange(1000), "activity_label": r.choice(["Mending nets", "Cooking – für alle"]), "ctx_a": f"[header] How to begin [title] {sentence(r)}",
            "ctx_b": r.choice(["a man", "the OLD woman", ""]), "ctx": "", "endings": endings, "source_id": "", "split": "val", "split_type": "zeroshot",
            "label": str(r.randrange(4))}


def mmlu(r):
    return {"question": f" {sentence(r)} Which of these is it? ", "subject": "anatomy", "choices": [r.choice(PLACES) for _ in range(4)], "answer": r.randrange(4)}


TASKS = {"arc_easy": (arc, "test"), "hellaswag": (hellaswag, "validation"), "mmlu_anatomy": (mmlu, "test")}


def harness(a, rows, folder):
    manager = TaskManager()
    names = []
    for name, (_, split) in TASKS.items():
        task = {"include": str(manager.task_index[name].yaml_path), "task": f"local_{name}", "dataset_path": "json", "dataset_name": None, "tag": None, "num_fewshot": 0,
                "dataset_kwargs": {"data_files": {split: str(rows[name])}}, "test_split": split, "validation_split": split, "training_split": None,
                "fewshot_split": split}
        (folder / f"local_{name}.yaml").write_text(yaml.safe_dump(task))
        names.append(f"local_{name}")
    manager = TaskManager(include_path=str(folder))
    out = lm_eval.simple_evaluate(model="hf", model_args={"pretrained": a.model, "dtype": "float32", "device": "cpu"}, tasks=names, task_manager=manager,
                                  batch_size=8, bootstrap_iters=0)
    return {name: out["results"][f"local_{name}"] for name in TASKS}


def ours(a, file):
    told = subprocess.run([a.ft, "eval", a.model, "--data", file, "--metric", "acc,acc_norm", "--json", "--quiet"], capture_output=True, text=True)
    if told.returncode:
        raise SystemExit(told.stderr)
    return json.loads(told.stdout)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ft", required=True)
    p.add_argument("--model", required=True)
    p.add_argument("--rows", type=int, default=40)
    a = p.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder, rows = pathlib.Path(name), {}
        for task, (make, _) in TASKS.items():
            r = random.Random(task)
            rows[task] = folder / f"{task}.jsonl"
            rows[task].write_text("".join(json.dumps(make(r)) + "\n" for _ in range(a.rows)))
        theirs = harness(a, rows, folder)
        for task, file in rows.items():
            mine = ours(a, file)
            for metric in ("acc", "acc_norm"):
                expected = theirs[task].get(f"{metric},none")
                if expected is not None:
                    same = abs(mine[metric] - expected) < 1e-9
                    wrong += not same
                    print(f"{task} {metric}: {mine[metric]:.4f}, harness {expected:.4f}{'' if same else '  DIFFERENT'}")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
