//! Which vector instructions this machine has, and functions compiled once for each.
use std::sync::OnceLock;

/// Instruction sets that the crate has code for. The compile target is a baseline CPU, so the choice is made at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// AVX-512 F, BW, DQ, VL with AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Whatever the compiler targets.
    Base,
}

impl Isa {
    /// The best instruction set of this machine, looked up once; the variable `FT_ISA` (`avx2`, `base`) lowers it.
    pub(crate) fn detect() -> Self {
        static ISA: OnceLock<Isa> = OnceLock::new();
        *ISA.get_or_init(|| Self::probe(std::env::var("FT_ISA").unwrap_or_default().as_str()))
    }

    #[cfg(target_arch = "x86_64")]
    fn probe(limit: &str) -> Self {
        let avx2 =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match limit {
            "base" => Isa::Base,
            "avx2" if avx2 => Isa::Avx2,
            _ if avx2 && avx512 => Isa::Avx512,
            _ if avx2 => Isa::Avx2,
            _ => Isa::Base,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn probe(_limit: &str) -> Self {
        Isa::Base
    }
}

/// Defines functions whose bodies are compiled for every instruction set and chosen at run time.
///
/// The bodies are plain loops that the compiler vectorizes. They do not contract `a * b + c`, so every instruction set
/// gives the same bits.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $ty),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
            match $crate::cpu::isa::Isa::detect() {
                // SAFETY: `detect` found the instruction set that the function is compiled for.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                $crate::cpu::isa::Isa::Base => body($($arg),*),
            }
        }
    )*};
}
pub(crate) use multiversion;

#[cfg(test)]
mod tests {
    /// Runs the tests that compare with an oracle again, in processes limited to lesser instruction sets.
    #[test]
    fn lesser_instruction_sets_pass_the_same_tests() {
        for isa in ["avx2", "base"] {
            let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
            let run = tests.arg("oracle").env("FT_ISA", isa).output().unwrap();
            let output = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{isa}: {output}");
            assert!(!output.contains(" 0 passed"), "{isa} ran no tests: {output}");
        }
    }
}
