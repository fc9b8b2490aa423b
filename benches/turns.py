"""One command of two `ft` programs in turns: seconds of the clock and of processor time, most memory, and whether they say the same.

    python benches/turns.py OLD NEW --rounds 3 -- generate MODEL --prompts FILE --max-new-tokens 60 --temperature 0 --ignore-eos --json

Prints one JSON object: medians of each program, the ratio NEW / OLD of each round, and how many answers (of `ft generate --json`)
are the same token for token.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time


def run(program, arguments):
    start = time.monotonic()
    child = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    text = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"{program} {' '.join(arguments)}: status {status}")
    return {
        "seconds": time.monotonic() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / 1024,
        "text": text,
    }


def answers(text):
    try:
        found = json.loads(text)
    except ValueError:
        return [text]
    rows = found.get("generations", [found])
    return [row.get("tokens", row) for row in rows]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("arguments", nargs="+")
    args = parser.parse_args()
    rounds = [[run(program, args.arguments) for program in (args.old, args.new)] for _ in range(args.rounds)]
    result = {}
    for at, name in enumerate(["old", "new"]):
        figures = ["seconds", "cpu_seconds", "memory_mb"]
        result[name] = {figure: round(statistics.median(pair[at][figure] for pair in rounds), 2) for figure in figures}
    for figure in ["seconds", "cpu_seconds"]:
        result[f"{figure}_ratios"] = [round(new[figure] / old[figure], 3) for old, new in rounds]
    old, new = (answers(said["text"]) for said in rounds[0])
    result["answers"] = len(new)
    result["same"] = sum(a == b for a, b in zip(old, new))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
