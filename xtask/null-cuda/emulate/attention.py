"""Runs the kernels of attention that use tensor cores on the host: no other device without a card has matrix units.

    FT_CARD=null NULL_CUDA_SOURCE=FOLDER .. cargo test -p ft-kernels .. cube::tests::attention      (CONTRIBUTING.md)
    python attention.py FOLDER

CubeCL's CUDA source of every such kernel is compiled with g++, a thread of the host for each of a block, and nvcuda::wmma written out in mma.h;
what it computes is compared with loops in f64. One line for each; status 1 if one is off.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ARGUMENTS = {
    "forward": ["packed(q)", "packed(k)", "packed(v)", "packed(one)", "logs.data()"],
    "queries": ["packed(q)", "packed(k)", "packed(v)", "packed(dout)", "rows.data()", "packed(one)"],
    "keys": ["packed(q)", "packed(k)", "packed(v)", "packed(dout)", "rows.data()", "packed(one)", "packed(two)"],
}
NO_WINDOW = 2**31 - 1
# Prefix, offset, window.
MASKS = [(0, 0, NO_WINDOW), (5, 12, 33)]


def tile(source, kernel):
    """Head dimension, rows and columns: rows of a tile are a vector of 8 longer than a head."""
    sizes = [int(n) for n in re.findall(r"array<__nv_bfloat16_8, (\d+)> \* const", source)]
    rows, cols = sizes[0], sizes[1 if kernel == "forward" else 2]
    found = [(d, n, cols // (d // 8 + 1)) for d in (16, 32, 64, 128, 256) for n in (64, 32, 16) if n * (d // 8 + 1) == rows]
    return found[0]


def check(path, kernel, folder):
    source = path.read_text()
    head = re.search(r"__launch_bounds__\((\d+)\)\s+(\w+)\((.*?)\) \{", source, re.S)
    units, name, parameters = int(head[1]), head[2], head[3]
    shared = re.search(r"extern __shared__ __align__\(\d+\) char (\w+)\[\];", source)
    source = source.replace(shared[0], f"char *const {shared[1]} = SHARED;")
    # The host has these names.
    source = re.sub(r"typedef [a-z ]*\bu?int\d+_t;\n", "", source)
    (folder / "kernel.inc").write_text("#include <cstddef>\n#include <cstdint>\n" + source)
    first = parameters.count("*") > len(ARGUMENTS[kernel])
    arguments = ARGUMENTS[kernel] + ["first.data()"] * first
    d, rows, cols = tile(source, kernel)
    ok = True
    for prefix, offset, window in MASKS:
        numbers = dict(HEAD_DIM=d, ROWS=rows, COLS=cols, UNITS=units, FIRST=int(first), PREFIX=prefix, OFFSET=offset, WINDOW=window)
        macros = [f"-D{name}={value}" for name, value in numbers.items()]
        macros += [f"-DKERNEL='{kernel[0]}'", f'-DSOURCE="{folder}/kernel.inc"', f"-DCALL={name}({', '.join(arguments)}, info)"]
        program = folder / "check"
        subprocess.run(["g++", "-std=c++20", "-O1", "-w", f"-I{HERE}", *macros, str(HERE / "main.cpp"), "-o", program, "-lpthread"], check=True)
        done = subprocess.run([program], capture_output=True, text=True)
        ok &= done.returncode == 0
        verdict = "ok " if done.returncode == 0 else "OFF"
        print(f"{verdict} {kernel}, heads of {d}, tiles {rows}x{cols}, prefix {prefix}, offset {offset}, window {window}, first {first}: {done.stdout}", flush=True)
    return ok


def main():
    sources = sorted(pathlib.Path(sys.argv[1]).glob("attention_*_f_bf16_n_8_*.cu"))
    jobs = [(path, re.match(r"attention_([a-z]+)_", path.name)[1]) for path in sources]
    # Kernels that ask for the length of a buffer read last columns, too (encoders), which the loops here do not have.
    taken = lambda text: "wmma" in text and ".static_meta[" not in text
    jobs = [(path, kernel) for path, kernel in jobs if kernel in ARGUMENTS and taken(path.read_text())]
    if not jobs:
        sys.exit(f"{sys.argv[1]}: no kernel of attention with wmma in bf16")
    with tempfile.TemporaryDirectory() as folder:
        done = [check(path, kernel, pathlib.Path(folder)) for path, kernel in jobs]
    print(f"{len(done)} kernels")
    sys.exit(not all(done))


if __name__ == "__main__":
    main()
