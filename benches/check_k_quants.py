"""A K-quant file of `ft export` beside the one that llama.cpp makes of the f32 file of the same model: types and bytes of every tensor.

    npm pack @node-llama-cpp/linux-x64@3.22.1 && tar xzf node-llama-cpp-linux-x64-3.22.1.tgz
    ft export MODEL --for llama.cpp --dtype f32 --out f32.gguf && ft export MODEL --for llama.cpp --dtype q4_k_m --out q4_k_m.gguf
    LD_LIBRARY_PATH=package/bins/linux-x64 python benches/check_k_quants.py --llama package/bins/linux-x64 --f32 f32.gguf --gguf q4_k_m.gguf --type q4_k_m

Prints one JSON object; the exit code is 1 when anything differs. Blocks whose scale is zero may differ in codes that mean nothing.
"""
import argparse
import ctypes
import json
import pathlib
import sys
import tempfile

import gguf
import numpy as np
from gguf.quants import dequantize

FILE_TYPES = {"q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}


class Params(ctypes.Structure):
    """The beginning of llama_model_quantize_params; the rest keeps its defaults."""
    _fields_ = [("threads", ctypes.c_int32), ("ftype", ctypes.c_int), ("rest", ctypes.c_byte * 256)]


def quantized(folder, f32, out, ftype):
    (library,) = sorted(folder.glob("libllama.v*.so")) or sorted(folder.glob("libllama.so"))
    llama = ctypes.CDLL(str(library))
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.restype = ctypes.c_uint32
    params = llama.llama_model_quantize_default_params()
    params.ftype = ftype
    if llama.llama_model_quantize(str(f32).encode(), str(out).encode(), ctypes.byref(params)):
        sys.exit("llama.cpp did not quantize the file")
    return gguf.GGUFReader(out)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--llama", required=True, type=pathlib.Path)
    p.add_argument("--f32", required=True, type=pathlib.Path)
    p.add_argument("--gguf", required=True, type=pathlib.Path)
    p.add_argument("--type", required=True, choices=FILE_TYPES)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        theirs = {t.name: t for t in quantized(a.llama, a.f32, pathlib.Path(folder) / "theirs.gguf", FILE_TYPES[a.type]).tensors}
        ours = {t.name: t for t in gguf.GGUFReader(a.gguf).tensors}
        types = {n: [ours[n].tensor_type.name, theirs[n].tensor_type.name] for n in ours if n in theirs and ours[n].tensor_type != theirs[n].tensor_type}
        same = [n for n in ours if n not in types and np.array_equal(ours[n].data, theirs[n].data)]
        values = [n for n in ours if n not in types and n not in same
                  and not np.array_equal(dequantize(ours[n].data, ours[n].tensor_type), dequantize(theirs[n].data, theirs[n].tensor_type))]
        told = {"tensors": len(ours), "missing": sorted(set(ours) ^ set(theirs)), "other types": types, "equal bytes": len(same), "other values": values,
                "types": {k: sum(t.tensor_type.name == k for t in ours.values()) for k in {t.tensor_type.name for t in ours.values()}}}
    print(json.dumps(told))
    sys.exit(bool(told["missing"] or types or values))
