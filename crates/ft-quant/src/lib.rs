//! How a frozen matrix is stored: native floats today, packed 4-bit and 8-bit codes behind the same door.
