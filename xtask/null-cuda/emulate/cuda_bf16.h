// bf16 on the host, rounded to even.
#pragma once
#include <cstring>

struct __nv_bfloat16 {
    unsigned short bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) {
        unsigned word;
        memcpy(&word, &value, 4);
        bits = (word + 0x7fff + (word >> 16 & 1)) >> 16;
    }
    operator float() const {
        unsigned word = unsigned(bits) << 16;
        float value;
        memcpy(&value, &word, 4);
        return value;
    }
};
